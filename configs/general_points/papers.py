"""The main experiment of arXiv 2508.16546 at its own size, for either model.

`study(paper, variant)` is SFT on the ID rule, PPO from SFT checkpoints, the
rotation that SFT made and the restoration of its directions; evaluations run
within SFT and PPO. Variants, comma-joined:

  faithful   the published reward, hands, loop, decoding and returns
  corrected  the default: what conclusions should be drawn from. One penalty a
             reply, spaces and the right-hand side read, exact values, hands
             held out; float32 turn log-probs, a truncated hand ends, critic
             warm-up, one run with a small KL term as a control; greedy and
             sampled evaluation of 1,024 hands
  smoke      a random model of the same family with two layers, on CPU

What `faithful` does not reproduce: see objectives/turn_ppo_published.py, and
Qwen's repetition penalty of 1.05 in evaluations.
"""
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs.general_points import restore
from rlft import config as door
from rlft import study as studies

ID, OOD = (10, 10, 10), (11, 12, 13)
WORDS = ('faithful', 'corrected', 'smoke')


class Paper(NamedTuple):
  """What differs between the two models."""
  name: str
  directory: str  # of the model's files, relative to where rlft is run
  chat: str  # an asset with the same features, for smoke
  shape: dict[str, Any]  # of a random model of the family, for smoke
  sft_steps: tuple[int, ...]  # evaluated and saved; the last is the end
  starts: tuple[int, ...]  # PPO starts; faithful takes the last
  updates: int
  prompts: int  # hands per update: some 4 turns each
  epochs: int
  sampling: dict[str, Any]  # temperature and rule of the generation config


def rules(faces, split, mode, **options) -> dict[str, Any]:
  """The game in the paper's own text."""
  return dict(name='general_points', faces=faces, split=split, text='paper',
              mode=mode, **options)


def panel(paper: Paper, words: set[str]) -> dict[str, Any]:
  """ID and OOD success, as published or as it should be measured."""
  tokens = 256
  temperature = paper.sampling['temperature']
  decoding = {k: v for k, v in paper.sampling.items() if k != 'temperature'}
  sampled = dict(temperature=temperature, decoding=decoding, tries=5,
                 max_new_tokens=tokens)
  if 'faithful' in words:
    found = {
        'id': dict(env=rules(ID, None, 'faithful'), n=234, seed=42, **sampled),
        'ood': dict(env=rules(OOD, None, 'faithful', ensure_face=True), n=234,
                    seed=42, **sampled)}
  else:
    own = rules(ID, 'held_out', 'corrected')
    other = rules(OOD, 'held_out', 'corrected', ensure_face=True)
    found = {'id': dict(env=own, n=1024, max_new_tokens=tokens),
             'ood': dict(env=other, n=1024, max_new_tokens=tokens),
             'id_sampled': dict(env=own, n=1024, **sampled),
             'ood_sampled': dict(env=other, n=1024, **sampled)}
  if 'smoke' in words:
    for section in found.values():
      section |= dict(n=4, rows=4, max_new_tokens=24)
      section['tries'] = min(2, section.get('tries', 1))
  return found


def start(paper: Paper, words: set[str]) -> ConfigDict:
  """What all stages share: the model, its words, its evaluations."""
  config = door.skeleton()
  config.model = dict(name='transformer', preset='', dtype='bfloat16',
                      remat='block', shape=door.EMPTY())
  config.init = f'hf:{paper.directory}'
  config.tokenizer = f'hf:{paper.directory}'
  if 'smoke' in words:
    config.init, config.tokenizer = '', f'asset:{paper.chat}'
    config.model.shape = paper.shape
    config.model.dtype = 'float32'
    config.model.remat = 'none'
  config.evals = panel(paper, words)
  return config


def sft(paper: Paper, words: set[str]) -> ConfigDict:
  """Batch 64; rate 1e-6 after a logarithmic warm-up; AdamW (0.9, 0.98)."""
  config = start(paper, words)
  mode = 'faithful' if 'faithful' in words else 'corrected'
  config.env = rules(ID, None if mode == 'faithful' else 'train', mode)
  config.objective = dict(name='sft')
  config.experience = dict(name='demonstrations', rows=64, length=512)
  config.optimizer = dict(
      learning_rate=1e-6, schedule='log_warmup', warmup_steps=376, b1=0.9,
      b2=0.98, eps=1e-7, weight_decay=0.0, clip_norm=1.0)
  steps = paper.sft_steps
  if 'smoke' in words:
    steps = (0, 2, 4)
    config.experience.rows = 4
    config.experience.length = 1024
    config.optimizer.learning_rate = 1e-3
    config.log.every = 1
  config.num_steps = steps[-1]
  config.evaluate.steps = config.checkpoint.steps = steps
  return config


def rl(paper: Paper, words: set[str], init: str, kl: float = 0.0) -> ConfigDict:
  """PPO whose action is a turn; five tries with the verifier's feedback."""
  config = start(paper, words)
  faithful = 'faithful' in words
  mode = 'faithful' if faithful else 'corrected'
  config.init = init
  config.critic = True
  config.env = rules(
      ID, None if faithful else 'train', mode, thought_coef=0.5)
  config.objective = dict(
      name='turn_ppo_published' if faithful else 'turn_ppo', clip=0.1,
      value_clip=0.1, value_coef=0.5, kl_coef=kl)
  config.advantages = dict(discount=0.9, lam=0.95)
  config.experience = dict(
      name='rollouts', prompts=paper.prompts, group=1,
      tries=6 if faithful else 5,  # the published loop scores one unread
      skip_tokens=2 if faithful else 0,
      temperature=0.2, max_new_tokens=256, length=2560)
  config.passes = dict(epochs=paper.epochs, minibatches=1)
  config.optimizer = dict(
      learning_rate=1e-6, schedule='cosine', warmup_steps=0, b1=0.9, b2=0.999,
      eps=1e-7, weight_decay=0.0, clip_norm=1.0)
  if not faithful:  # the critic learns the mean return first
    config.optimizer.update(warmup_steps=16, critic_warmup_steps=0)
  updates, every = paper.updates, 10
  if 'smoke' in words:
    updates, every = 2, 1
    config.experience.update(
        prompts=4, tries=2, max_new_tokens=24, length=1536)
    config.passes.epochs = 1
    config.log.every = 1
  config.num_steps = updates
  config.evaluate.every = config.checkpoint.every = every
  return config


def analysis(paper: Paper, words: set[str], name: str, **options) -> ConfigDict:
  """Rotation or restoration between the SFT's begin and its end."""
  end = sft(paper, words).num_steps
  section = dict(
      analysis=dict(name=name, seed=0, **options),
      checkpoints=dict(before='sft@0', after=f'sft@{end}'))
  if name == 'restoration':
    shared = start(paper, words)
    section |= {key: shared[key] for key in (
        'tokenizer', 'model', 'evals')} | dict(init='', base='')
    if 'smoke' not in words:  # what `model` is, is said by the checkpoint
      section['tokenizer'] = ''
  return ConfigDict(section)


def study(paper: Paper, variant: str) -> ConfigDict:
  """SFT, PPO from its checkpoints, rotation, restoration."""
  words = door.variants(variant, WORDS)
  if {'faithful', 'corrected'} <= words:
    raise ValueError('faithful or corrected: write one of them')
  stages = {'sft': studies.stage('sft', sft(paper, words))}
  starts = paper.starts[-1:] if 'faithful' in words else paper.starts
  if 'smoke' in words:
    starts = (4,)
  for step in starts:
    stages[f'rl_{step:04d}'] = studies.stage(
        'rl', rl(paper, words, f'sft@{step}'), from_step=step)
  if not words & {'faithful', 'smoke'}:
    stages['rl_kl'] = studies.stage(
        'rl_kl', rl(paper, words, f'sft@{starts[-1]}', kl=0.05),
        from_step=starts[-1])
  sweep = restore.SWEEP
  if 'smoke' in words:
    sweep = (dict(kind='none'), dict(kind='vectors', top=0.2),
             dict(kind='interpolate', amount=0.5))
  stages['rotation'] = studies.stage('rotation', analysis(
      paper, words, 'rotation', top=0.2, floor='bfloat16'))
  stages['restoration'] = studies.stage('restoration', analysis(
      paper, words, 'restoration', sweep=sweep))
  mode = 'faithful' if 'faithful' in words else 'corrected'
  # Of a real size no device holds a whole run.
  cut = {} if 'smoke' in words else dict(data=1, fsdp=-1)
  return studies.of(f'GeneralPoints, {paper.name}, {mode}', stages, **cut)
