"""What every engine of `rl.py` is given: shapes, weights, prompts, a reward.

Read in environments of their own: no more than numpy, tokenizers and
safetensors is imported here.
"""
import json
import pathlib
import time

import numpy as np

from tests.bench.models import SHAPES

PROMPT, NEW = 32, 64  # tokens; `<s>` is the first of a prompt
ROWS, GROUP = 64, 4  # completions of a step, and of a prompt in GRPO
MINIBATCHES = 4
PPO_KL, GRPO_KL = 0.05, 0.04  # in the reward; in the loss
RATE = 1e-6
THETA, EPSILON = 1_000_000., 1e-6  # what Tunix' Llama has, whatever it is told
SPECIAL = ('<pad>', '<s>', '</s>', '<unk>')
PAD, BOS, END = range(3)
PHASES = ('rollout', 'score', 'update')


class Clock:
  """CPU seconds of the process by phase and wall seconds, step by step."""

  def __init__(self):
    self.steps = []
    self._begin()

  def _begin(self) -> None:
    self.row = dict.fromkeys(PHASES, 0.0)
    self.cpu, self.wall = time.process_time(), time.monotonic()

  def lap(self, phase: str) -> None:
    """Books what was spent since the last lap."""
    now = time.process_time()
    self.row[phase] += now - self.cpu
    self.cpu = now

  def step(self) -> None:
    """Ends a step; what is not booked yet was its update."""
    self.lap('update')
    self.steps.append(
        self.row | {'wall': time.monotonic() - self.wall,
                    'cpu': sum(self.row.values())})
    self._begin()


def prompts(shape: str, count: int) -> list[str]:
  """As texts, without `<s>`: a word is the number of its token."""
  drawn = np.random.default_rng(1).integers(
      len(SPECIAL), SHAPES[shape][5], (count, PROMPT - 1))
  return [' '.join(map(str, row)) for row in drawn]


def probe(shape: str) -> np.ndarray:
  """Rows of PROMPT + NEW tokens whose log-probs all engines must agree on."""
  drawn = np.random.default_rng(2).integers(
      len(SPECIAL), SHAPES[shape][5], (8, PROMPT + NEW))
  drawn[:, 0] = BOS
  return drawn


def reward(text: str) -> float:
  """The share of even words."""
  words = [int(word) for word in text.split() if word.isdigit()]
  return sum(word % 2 == 0 for word in words) / max(len(words), 1)


def write(folder: pathlib.Path, shape: str) -> None:
  """A Hugging Face directory of random weights, and a tokenizer.json.

  `qwen2/` below it has the same with biases of 0, which is the same function.
  """
  from safetensors.numpy import save_file
  tensors = weights(shape)
  width, layers, heads, kv_heads, hidden, vocabulary = SHAPES[shape]
  config = dict(
      model_type='llama', architectures=['LlamaForCausalLM'],
      hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
      num_key_value_heads=kv_heads, intermediate_size=hidden,
      vocab_size=vocabulary, rms_norm_eps=EPSILON, rope_theta=THETA,
      hidden_act='silu', attention_bias=False, mlp_bias=False,
      tie_word_embeddings=False, max_position_embeddings=4096,
      torch_dtype='float32', pad_token_id=PAD, bos_token_id=BOS,
      eos_token_id=END)
  (folder / 'config.json').write_text(json.dumps(config))
  save_file(tensors, folder / 'model.safetensors', {'format': 'pt'})
  biases = {
      f'model.layers.{layer}.self_attn.{name}_proj.bias': np.zeros(
          width if name == 'q' else width * kv_heads // heads, np.float32)
      for layer in range(layers) for name in 'qkv'}
  (folder / 'qwen2').mkdir()
  save_file(tensors | biases, folder / 'qwen2/model.safetensors')
  words(vocabulary).save(str(folder / 'tokenizer.json'))


def weights(shape: str) -> dict[str, np.ndarray]:
  """By their Hugging Face names; deviation 0.02, as published models begin."""
  width, layers, heads, kv_heads, hidden, vocabulary = SHAPES[shape]
  rng = np.random.default_rng(0)
  drawn = lambda *size: 0.02 * rng.standard_normal(size, np.float32)
  kv = width * kv_heads // heads
  one = np.ones(width, np.float32)
  found = {'model.embed_tokens.weight': drawn(vocabulary, width),
           'model.norm.weight': one, 'lm_head.weight': drawn(vocabulary, width)}
  for layer in range(layers):
    at = f'model.layers.{layer}.'
    found |= {
        f'{at}self_attn.q_proj.weight': drawn(width, width),
        f'{at}self_attn.k_proj.weight': drawn(kv, width),
        f'{at}self_attn.v_proj.weight': drawn(kv, width),
        f'{at}self_attn.o_proj.weight': drawn(width, width),
        f'{at}mlp.gate_proj.weight': drawn(hidden, width),
        f'{at}mlp.up_proj.weight': drawn(hidden, width),
        f'{at}mlp.down_proj.weight': drawn(width, hidden),
        f'{at}input_layernorm.weight': one.copy(),
        f'{at}post_attention_layernorm.weight': one.copy()}
  return found


def words(vocabulary: int):
  """A tokenizer of numbers; it begins a text with `<s>` where asked to."""
  import tokenizers
  from tokenizers import models, pre_tokenizers, processors
  known = [*SPECIAL, *map(str, range(len(SPECIAL), vocabulary))]
  built = tokenizers.Tokenizer(models.WordLevel(
      {word: i for i, word in enumerate(known)}, unk_token='<unk>'))
  built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  built.add_special_tokens(list(SPECIAL))
  built.post_processor = processors.TemplateProcessing(
      single='<s> $A', special_tokens=[('<s>', BOS)])
  return built


def fast(folder: pathlib.Path):
  """The same as a tokenizer of transformers."""
  import transformers
  return transformers.PreTrainedTokenizerFast(
      tokenizer_file=str(folder / 'tokenizer.json'), pad_token='<pad>',
      bos_token='<s>', eos_token='</s>', unk_token='<unk>',
      padding_side='left')
