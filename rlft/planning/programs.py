"""What a run compiles, with the shapes and layouts of what it is given.

Nothing is computed and nothing allocated: parameters are shapes.
"""
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rlft import binding, decoding, episodes, rows, tokenizer
from rlft.experience import rollouts
from rlft.ops import modules, prefixes, sharding, trees
from rlft.spectral import sharded, svd
from rlft.types import Batch, Experience, Rollout, TrainState


class Program(NamedTuple):
  """A jitted function and what it would be called with."""
  name: str
  run: Callable
  arguments: tuple[PyTree, ...]
  forward: tuple[Callable, tuple] | None = None  # its loss alone, to compare
  passes: int = 1  # over the data
  beside: PyTree = ()  # what else is on the devices meanwhile


def known(config: ml_collections.ConfigDict) -> list[str]:
  """Names of the programs of a run, the update by its objective's."""
  online = ['score', 'sample'] if binding.is_online(config) else []
  return [config.objective.name, *online, 'spectral']


def of(config: ml_collections.ConfigDict, mesh: Any) -> list[Program]:
  """The programs of a run; outside of the mesh, whose devices may not exist."""
  words = tokenizer.load(config.tokenizer, **config.get('chat', {}))
  family, model = binding.build_model(config.model, words)
  update, tx, probe = binding.build_update(config, model)
  state = binding.state_shapes(config, family, model, tx)
  key = jax.eval_shape(jax.random.key, 0)
  with sharding.over(mesh):
    state = TrainState(*_laid(tuple(state)))
  passes = config.passes.get('epochs', 1)
  if not binding.is_online(config):
    batch = _everywhere(Batch(*_tokens(config.experience.rows,
                                       config.experience.length)), mesh)
    made = [Program(config.objective.name, update, (state, batch),
                    (probe, (state.params, batch)), passes)]
  else:
    made = _online(config, words, model, mesh, state, update, probe, key)
  beside = (state, made[0].beside)
  return [*made, _spectral(state.params, mesh)._replace(beside=beside)]


def _online(config, words, model, mesh, state, update, probe, key):
  section = config.experience
  data = _everywhere(_experience(rows.of(section), section.length), mesh)
  policy = {'policy': policy_of(state.params)}
  ref = modules.cast(policy, model.dtype)
  temperature = section.get('temperature', 1.0)
  others = {k: v for k, v in state.params.items() if k != 'policy'}
  return [
      Program(config.objective.name, update, (state, data),
              (probe, (state.params, data)), config.passes.get('epochs', 1),
              beside=ref),
      Program('score', rollouts.scorer(
          model, temperature, section.get('rescore', True),
          **rows.shared(section)),
              (state.params, ref, data.rollout.tokens),
              beside=state.opt_state),
      _sample(config, words, model, mesh, key, policy)._replace(
          beside=(others, state.opt_state, ref))]


def _sample(config, words, model, mesh, key, policy):
  """The sampler of a first turn, whose groups share a prompt.

  With several turns that of later ones: hardly any contexts are the same.
  """
  section = config.experience
  group, tries = section.get('group', 1), section.get('tries', 1)
  count, new = rows.of(section), section.get('max_new_tokens', 20)
  once = min(section.get('sample_rows') or count, count)
  slots = min(section.get('slots') or once, once)
  with sharding.over(mesh):
    parts = prefixes.parts(once, slots)
  sample = episodes.sampler(
      model, pad=words.pad, stops=words.stops, max_new_tokens=new,
      temperature=section.get('temperature', 1.0),
      decoding=decoding.read(config, 'config'),
      slots=slots if slots < once else 0, parts=parts)
  size = once // parts
  prompts = once if tries > 1 else prefixes.room([
      len({row // group for row in range(part * size, (part + 1) * size)})
      for part in range(parts)], once)
  return Program('sample', sample, (policy, *_everywhere((
      _ints(prompts, section.length - new),
      jax.ShapeDtypeStruct((once,), key.dtype),
      None if prompts == once else _ints(once)), mesh)))


def policy_of(params: PyTree) -> PyTree:
  """The policy's parameters, trained or frozen."""
  return params.get('policy') or params[trees.FROZEN]['policy']


def _spectral(params: PyTree, mesh: Any) -> Program:
  """The decomposition of the largest stack of matrices, dealt out."""
  stacks = {k: v for k, v in trees.named(policy_of(params)).items()
            if v.ndim == 3 and k.endswith('kernel')}
  path = max(stacks, key=lambda k: stacks[k].size)
  stack = stacks[path]

  def decompose(stack):
    if mesh is None:
      return svd.decompose(stack)
    return sharded.stacks(
        svd.decompose, {path: stack}, mesh=mesh,
        specs={path: stack_spec(stack, path)})[path]

  def stack_spec(stack, path):
    return sharding.of_parameter(path, stack.shape)

  return Program('spectral', jax.jit(decompose), (stack,))


def _ints(*shape: int) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _tokens(count: int, length: int) -> tuple[jax.ShapeDtypeStruct, ...]:
  return _ints(count, length), jax.ShapeDtypeStruct((count, length), jnp.bool_)


def _experience(count: int, length: int) -> Experience:
  tokens, mask = _tokens(count, length)
  number = jax.ShapeDtypeStruct((count, length), jnp.float32)
  return Experience(
      Rollout(tokens=tokens, mask=mask, turn_ids=tokens, rewards=number,
              prompt_ids=_ints(count), log_probs=number, ref_log_probs=number,
              values=number, weights=number, sampler_log_probs=number,
              truncated=jax.ShapeDtypeStruct((count,), jnp.bool_)),
      number, number)


def _laid(tree: PyTree) -> PyTree:
  """Shapes with the layout of parameters."""
  layouts = sharding.shardings(tree)
  if layouts is None:
    return tree
  return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=at), tree, layouts)


def _everywhere(tree: PyTree, mesh: Any) -> PyTree:
  if mesh is None:
    return tree
  at = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=at), tree)


def held(tree: PyTree) -> int:
  """Bytes that a tree of shapes takes on one device."""
  return sum(
      math.prod(x.shape if x.sharding is None else x.sharding.shard_shape(
          x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def stages(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Name -> config of each run of a study that compiles anew; or of the run.

  Stages that differ in nothing but where they start share their programs.
  """
  if 'stages' not in config:
    return {'': config}
  found, seen = {}, set()
  for name in config.order:
    section = config.stages[name].config
    if 'analysis' in section:
      continue
    own = section.copy_and_resolve_references()
    own.init = own.base = ''
    mark = own.to_json()
    if mark not in seen:
      seen.add(mark)
      found[name] = section
  return found
