"""A step of RL beside TRL and Tunix: same weights, prompts, lengths.

  python -m tests.bench.rl [--shapes=1M,25M] [--algorithms=grpo,ppo]
      [--engines=ours,trl,tunix] [--rounds=3] [--steps=4]

A step is all of it, by each library's own loop: 64 completions of exactly 64
tokens after prompts of 32 (GRPO: 16 prompts, 4 of each), a reward read off the
text, log-probs of policy and reference, values, and one epoch of AdamW over
four minibatches of 16 rows. Float32, Llama shapes of `models.py`, two threads
that wait without spinning: torch's would else be charged for whatever else the
machine does. CPU seconds of the process (user and system) per step, medians
over the steps of all rounds after two that compile; wall seconds beside them,
and CPU seconds by phase: rollout (sampling, decoding), score (reward,
log-probs, values, advantages), update.

Engines run by turns in processes of their own, peers in environments of their
own (`make bench`): TRL 1.16.0 for GRPO and 1.12.0, the last that has it, for
PPO; google-tunix 0.1.7. `rl_trl.py` and `rl_tunix.py` say with which settings.
What differs: ours takes the behaviour's log-probs from sampling and computes a
group's prompt once (`experience.rescore`, `prompt_length`); Tunix makes one
optimizer step of all 64 rows, and in GRPO no log-probs of the policy before the
update; TRL's PPO takes those from sampling. All must give the same tokens the
same log-probs before any number is printed.
"""
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from unittest import mock

from tests.bench import rl_task
from tests.bench.models import THREADS

WARM = 2  # steps that compile
AGREE = 1e-4  # nats: the largest difference of mean log-probs
ENGINES = {  # the variable that names its interpreter
    'ours': '', 'trl': 'TRL_PYTHON', 'tunix': 'TUNIX_PYTHON'}


def environment(shape: str):
  """Tasks in the order of the prompts, judged by `rl_task.reward`."""
  from rlft.envs import Environment
  from rlft.types import Task, Turn
  texts = itertools.cycle(rl_task.prompts(shape, rl_task.ROWS))

  def respond(task, completions):
    paid = rl_task.reward(completions[-1])
    return Turn('', paid, True, {'wrong': paid})

  return Environment(
      lambda rng: Task(next(texts), None), None, respond,
      *[None] * (len(Environment._fields) - 3))


def source(algorithm: str, shape: str, words, model, reference):
  """Rollouts of 64 rows, as wide as their prompts and completions."""
  from rlft import parts
  from rlft.experience import rollouts
  group = rl_task.GROUP if algorithm == 'grpo' else 1
  hyper = dict(kl_reward_coef=rl_task.PPO_KL) if algorithm == 'ppo' else {}
  return rollouts.make(
      environment(shape), tokenizer=words, model=model, ref_params=reference,
      advantages=parts.bind(
          'objectives', 'advantages', name=algorithm, **hyper),
      prompts=rl_task.ROWS // group, group=group, temperature=1.0,
      max_new_tokens=rl_task.NEW, length=rl_task.PROMPT + rl_task.NEW,
      prompt_length=rl_task.PROMPT, rescore=False)


def run(algorithm: str, shape: str, folder: pathlib.Path, steps: int, clock
        ) -> float:
  """Makes the steps of `rlft.train`; what the probe's log-prob is."""
  import jax
  import jax.numpy as jnp

  from rlft import binding, ledger, tokenizer, weights
  from rlft.adapters import value_head
  from rlft.experience import rollouts
  from rlft.hf import architecture
  from rlft.models import transformer
  from rlft.ops import sharding, trees
  from rlft.training import steps as training
  from rlft.types import TrainState

  words = tokenizer.load(str(folder / 'tokenizer.json'))._replace(stops=())
  model = transformer.make(
      vocabulary=words.vocabulary, pad=words.pad, bos=words.bos,
      shape=architecture.read(folder).shape)
  params = sharding.placed(weights.load(f'hf:{folder}'))
  reference = trees.copied(params)
  tokens = jnp.asarray(rl_task.probe(shape))
  found = rollouts.scorer(model, 1.0)(params, reference, tokens)[0]
  if algorithm == 'ppo':
    params['critic'] = value_head.make(params['policy'])
  hyper = dict(kl_coef=rl_task.GRPO_KL) if algorithm == 'grpo' else {}
  update, tx, _ = binding.compile_update(
      model, 1.0, steps, tuple(dict(name=algorithm, **hyper).items()),
      (('epochs', 1), ('minibatches', rl_task.MINIBATCHES)),
      (('learning_rate', rl_task.RATE),), prompt=rl_task.PROMPT,
      group=rl_task.GROUP if algorithm == 'grpo' else 1)
  state = TrainState(
      jnp.zeros((), jnp.int32), params, tx.init(params), jax.random.key(0))
  draw = source(algorithm, shape, words, model, reference)
  at, seen = draw.init(), {}
  with mock.patch.object(ledger, 'time', mock.Mock(monotonic=_cpu)):
    for step in range(steps):
      key = training.stream(state.key, 'rollout', step)
      at, batch, data = draw.next(at, state.params, seen, key)
      clock.lap('score')  # all of it; the source says what was sampling
      clock.row['rollout'] = data['rollout_seconds']
      clock.row['score'] -= data['rollout_seconds']
      state, seen = jax.block_until_ready(update(state, batch))
      clock.step()
  return float(jnp.mean(found[:, rl_task.PROMPT:]))


def _cpu() -> float:
  import time
  return time.process_time()


def child(engine: str, algorithm: str, shape: str, folder: str, steps: int
          ) -> None:
  """Runs an engine here and prints its steps as JSON."""
  os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
  if engine == 'trl':
    from tests.bench.rl_trl import run as made
  elif engine == 'tunix':
    from tests.bench.rl_tunix import run as made
  else:
    made = run
  clock = rl_task.Clock()
  log_prob = made(algorithm, shape, pathlib.Path(folder), steps, clock)
  print(json.dumps(dict(log_prob=log_prob, steps=clock.steps[WARM:])))


def asked(engine: str, algorithm: str, *words: object) -> dict | None:
  """What a child says; None, with its last line printed, if it fails."""
  variable = ENGINES[engine]
  path = [os.environ.get('TRL_PPO_PATH', '')] if (
      engine, algorithm) == ('trl', 'ppo') else []
  kept = {k: v for k, v in os.environ.items()
          if not variable or k not in ('PYTHONPATH', 'XLA_FLAGS')}
  done = subprocess.run(
      [os.environ[variable] if variable else sys.executable, '-m',
       'tests.bench.rl', 'child', engine, algorithm, *map(str, words)],
      capture_output=True, text=True, check=False,
      env=kept | {'OMP_NUM_THREADS': str(THREADS), 'JAX_PLATFORMS': 'cpu',
                  'OMP_WAIT_POLICY': 'PASSIVE', 'HF_HUB_OFFLINE': '1',
                  'TOKENIZERS_PARALLELISM': 'false'}
      | ({'PYTHONPATH': path[0]} if path else {}))
  if done.returncode:
    print(f'{engine} {algorithm} {words[0]}: failed, '
          f'{(done.stderr.strip().splitlines() or ["?"])[-1][:300]}')
    return None
  return json.loads(done.stdout.strip().splitlines()[-1])


def table(shape: str, algorithm: str, engines: list[str], rounds: int,
          steps: int) -> None:
  """Medians over the steps of rounds in which every engine has its turn."""
  found, said = {engine: [] for engine in engines}, {}
  with tempfile.TemporaryDirectory() as folder:
    rl_task.write(pathlib.Path(folder), shape)
    for _ in range(rounds):
      for engine in list(found):
        told = asked(engine, algorithm, shape, folder, steps + WARM)
        if told is None:
          del found[engine]
        else:
          found[engine] += told['steps']
          said[engine] = told['log_prob']
  print(f'{algorithm} {shape}: mean log-prob of the same tokens', ', '.join(
      f'{engine} {x:.6f}' for engine, x in said.items()))
  if max(said.values()) - min(said.values()) > AGREE:
    raise SystemExit('the engines do not compute the same model')
  middle = {
      engine: {k: statistics.median(row[k] for row in rows) for k in rows[0]}
      for engine, rows in found.items() if rows}
  for engine, row in middle.items():
    phases = ', '.join(f'{k} {row[k]:.2f}' for k in rl_task.PHASES)
    print(f'  {engine:6s} {row["cpu"]:7.2f} CPU s a step ({row["wall"]:7.2f} '
          f'wall): {phases}; {row["cpu"] / middle["ours"]["cpu"]:.2f} x ours',
          flush=True)


def main(words: list[str]) -> None:
  """Prints a table for each shape and algorithm."""
  if words[:1] == ['child']:
    *names, steps = words[1:]
    return child(*names, int(steps))
  options = dict(word[2:].split('=') for word in words)
  engines = [e for e in options.get('engines', ','.join(ENGINES)).split(',')
             if not ENGINES[e] or os.environ.get(ENGINES[e])]
  for engine in set(ENGINES) - set(engines):
    print(f'{engine} is left out: {ENGINES[engine]} names its interpreter')
  for shape in options.get('shapes', '1M,25M').split(','):
    for algorithm in options.get('algorithms', 'grpo,ppo').split(','):
      table(shape, algorithm, engines, int(options.get('rounds', 3)),
            int(options.get('steps', 4)))


if __name__ == '__main__':
  main(sys.argv[1:])
