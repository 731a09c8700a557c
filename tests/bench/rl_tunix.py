"""A step of Tunix' GRPO and PPO (google-tunix 0.1.7): see `rl.py`.

Runs in an environment of Tunix' own: its own cluster, learners and sampler on
one device, float32, no remat, nothing logged or saved, caches as wide as rows.
A mini batch of Tunix has a rollout of its own: all rows are one here, which
spares it three rollouts and three optimizer steps of the others' four.
Its PPO hands `segment_ids` to the critic, which its Llama does not take: there
its Qwen2 stands in, of the same shape with biases of 0.
"""
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import rl_cluster
from tunix.rl import utils as rl_utils
from tunix.rl.rollout import base_rollout

from tests.bench import rl_task
from tests.bench.models import SHAPES

Role = rl_cluster.Role


def model(shape: str, folder: pathlib.Path, family: str, mesh):
  """The same weights; 'llama3' or 'qwen2'."""
  width, layers, heads, kv_heads, hidden, vocabulary = SHAPES[shape]
  common = dict(
      num_layers=layers, vocab_size=vocabulary, embed_dim=width,
      hidden_dim=hidden, num_heads=heads, head_dim=width // heads,
      num_kv_heads=kv_heads, rope_theta=int(rl_task.THETA),
      norm_eps=rl_task.EPSILON)
  if family == 'llama3':
    from tunix.models.llama3 import model as of
    from tunix.models.llama3 import params
  else:
    from tunix.models.qwen2 import model as of
    from tunix.models.qwen2 import params
    folder = folder / 'qwen2'
  return params.create_model_from_safe_tensors(
      str(folder), of.ModelConfig(**common), mesh, jnp.float32)


def cluster(shape: str, folder: pathlib.Path, family: str, steps: int,
            critic: bool):
  mesh = jax.make_mesh(
      (1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2)
  tx = lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(
      rl_task.RATE, b1=0.9, b2=0.95, weight_decay=0.0))
  actor = model(shape, folder, family, mesh)
  return rl_cluster.RLCluster(
      actor=actor, reference=model(shape, folder, family, mesh),
      critic=rl_utils.create_critic_model(actor) if critic else None,
      tokenizer=rl_task.fast(folder),
      cluster_config=rl_cluster.ClusterConfig(
          role_to_mesh=dict.fromkeys(Role, mesh), rollout_engine='vanilla',
          training_config=rl_cluster.RLTrainingConfig(
              actor_optimizer=tx(), critic_optimizer=tx() if critic else None,
              eval_every_n_steps=10**9, max_steps=steps),
          rollout_config=base_rollout.RolloutConfig(
              max_tokens_to_generate=rl_task.NEW, temperature=1.0, top_p=1.0,
              max_prompt_length=rl_task.PROMPT, eos_tokens=[-1],
              kv_cache_size=rl_task.PROMPT + rl_task.NEW)))


def timed(owner, name: str, clock, before: str, phase: str) -> None:
  """Books calls of owner.name on a phase, when their arrays are there."""
  whole = getattr(owner, name)

  def call(*args, **kwargs):
    clock.lap(before)
    found = whole(*args, **kwargs)
    arrays = [x for x in jax.tree.leaves(found) if isinstance(x, jax.Array)]
    jax.block_until_ready(arrays)
    clock.lap(phase)
    return found

  setattr(owner, name, call)


def learner(algorithm: str, made, **options):
  if algorithm == 'grpo':
    from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner
    return GRPOLearner(made, GRPOConfig(
        num_generations=rl_task.GROUP, num_iterations=1,
        beta=rl_task.GRPO_KL), **options)
  from tunix.rl.ppo.ppo_learner import PPOConfig, PPOLearner
  return PPOLearner(made, PPOConfig(
      num_iterations=1, beta=rl_task.PPO_KL), **options)


def run(algorithm: str, shape: str, folder: pathlib.Path, steps: int, clock
        ) -> float:
  """Makes the steps; what the probe's log-prob is."""
  family = {'grpo': 'llama3', 'ppo': 'qwen2'}[algorithm]
  made = cluster(shape, folder, family, steps, algorithm == 'ppo')
  tokens = jnp.asarray(rl_task.probe(shape))
  found = made.get_ref_per_token_logps(
      tokens[:, :rl_task.PROMPT], tokens[:, rl_task.PROMPT:], rl_task.PAD,
      rl_task.END)
  taught = learner(
      algorithm, made, reward_fns=lambda prompts, completions, **_: [
          rl_task.reward(text) for text in completions])
  timed(made, 'generate', clock, 'update', 'rollout')
  timed(taught, '_generate_and_compute_advantage', clock, 'update', 'score')
  whole = taught._run_global_step

  def step(*args):
    whole(*args)
    jax.block_until_ready(jax.tree.leaves(nnx.state(made.actor_trainer.model)))
    clock.step()

  taught._run_global_step = step
  count = rl_task.ROWS // (rl_task.GROUP if algorithm == 'grpo' else 1)
  texts = np.array(rl_task.prompts(shape, count))
  taught.train([{'prompts': texts} for _ in range(steps)])
  return float(jnp.mean(found))
