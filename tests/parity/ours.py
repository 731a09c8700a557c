"""What rlft says of a checkpoint, through the doors that everyone uses."""
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from rlft import policy
from rlft.hf import architecture, reading
from rlft.models import transformer
from rlft.objectives import sft
from rlft.ops import trees
from rlft.types import Batch
from tests.parity.numbers import Asked, Numbers

# Each model is computed once: compiling is what takes time.
QUICKLY = {'xla_backend_optimization_level': 0}


def load(
    folder: pathlib.Path, pad: int,
) -> tuple[transformer.Model, PyTree]:
  """The model and its parameters."""
  shape = architecture.read(folder).shape
  model = transformer.make(
      vocabulary=shape['vocabulary'], shape=shape, pad=pad, bos=None)
  like = jax.eval_shape(
      lambda key: transformer.initialise(model, key), jax.random.key(0))
  return model, reading.params(folder, like)


def answers(folder: pathlib.Path, asked: Asked) -> Numbers:
  model, params = load(folder, asked.pad)
  return of(model, params, folder, asked)


def of(
    model: transformer.Model, params: PyTree, folder: pathlib.Path,
    asked: Asked,
) -> Numbers:
  """The same of parameters that may not be those of the directory."""
  batch = Batch(jnp.asarray(asked.tokens), jnp.asarray(asked.mask))

  def loss(params):
    outputs = policy.forward(model, {'policy': params}, batch.tokens)
    return sft.loss(outputs, batch)[0], outputs.hidden

  @functools.partial(jax.jit, compiler_options=QUICKLY)
  def scored(params):
    (nll, hidden), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    logits = model.apply({'params': params}, hidden, method='head')
    return logits, hidden, nll, gradient

  logits, hidden, nll, gradient = jax.device_get(scored(params))
  return Numbers(
      logits, hidden, float(nll), by_tensor(gradient, folder),
      greedy(model, params, asked), None)


def logits(
    model: transformer.Model, params: PyTree, asked: Asked,
) -> Float[np.ndarray, 'B T V']:
  """Of every position, and nothing else."""
  @functools.partial(jax.jit, compiler_options=QUICKLY)
  def scored(params):
    hidden, _ = model.apply({'params': params}, jnp.asarray(asked.tokens))
    return model.apply({'params': params}, hidden, method='head')
  return np.asarray(scored(params))


def greedy(
    model: transformer.Model, params: PyTree, asked: Asked,
) -> Int[np.ndarray, 'B N']:
  """What is written after the prompts, with a cache."""
  keys = jax.random.split(jax.random.key(0), len(asked.prompts))
  sampled = jax.jit(
      lambda params, prompts, keys: policy.sample(
          model, {'policy': params}, prompts, keys, max_new_tokens=asked.new,
          stops=(), pad=asked.pad, temperature=0.0),
      compiler_options=QUICKLY)(params, jnp.asarray(asked.prompts), keys)
  return np.asarray(sampled.tokens)[:, asked.prompts.shape[1]:]


def by_tensor(tree: PyTree, folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Parameters under the names and in the layout of the checkpoint."""
  leaves = trees.named(tree)
  _, where = reading.plan(folder, {k: x.shape for k, x in leaves.items()})
  made = {}
  for path, parameter in where.parameters.items():
    stack = leaves[path] if parameter.stacked else leaves[path][None]
    for name, x in zip(parameter.tensors, stack, strict=True):
      made[name] = np.asarray(x.T if parameter.transposed else x)
  return made
