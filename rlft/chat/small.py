"""Makes the two small chat tokenizers that are shipped: `asset:llama3_chat`
and `asset:qwen2_chat`.

Each has what is peculiar to its family: how text is split, which tokens there
are, how a turn ends, what the template beside it writes. Merges are learned
from synthetic texts of the card game. The templates are written by hand.
"""
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from rlft.ops import card_texts, cards, formulas, solutions

FACES = ((10, 10, 10), (11, 12, 13))
MERGES = 512
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = ('<|begin_of_text|>', '<|end_of_text|>',
          '<|reserved_special_token_0|>', '<|finetune_right_pad_id|>',
          '<|start_header_id|>', '<|end_header_id|>', '<|eom_id|>',
          '<|eot_id|>', '<|python_tag|>')
QWEN2 = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
QWEN2_PLAIN = ('<tool_call>', '</tool_call>', '<|fim_pad|>')  # not special


def texts(n: int = 400) -> Iterator[str]:
  """What is asked, answered and replied in the paper's words; a few turns."""
  rng = np.random.default_rng(0)
  yield from ['system', 'user', 'assistant', 'ipython', 'Knowledge until: '
              'December 2023\nToday: 26 Jul 2024\n\n', 'You are a careful '
              'assistant who plays by the rules.'] * n
  while n:
    faces = FACES[n % 2]
    ranks = cards.draw(rng, 4)
    values = cards.values(ranks, faces)
    if not solutions.is_solvable(values, 24):
      continue
    n -= 1
    formula = solutions.canonical(values, 24)
    yield card_texts.prompt('paper', ranks, faces, 24)
    yield card_texts.completion('paper', ranks, values, f'{formula}=24')
    for wrong in (formula[:-1], formula[2:], formula.replace('+', '-')):
      yield 'You failed this trial because ' + formulas.explain(formulas.judge(
          wrong, values, target=24, mode='corrected'))


def trained(digits: str, normal_form: bool) -> tokenizers.Tokenizer:
  """Byte-level BPE; `digits` is how runs of them are split."""
  built = tokenizers.Tokenizer(models.BPE())
  if normal_form:
    built.normalizer = normalizers.NFC()
  built.pre_tokenizer = pre_tokenizers.Sequence([
      pre_tokenizers.Split(
          tokenizers.Regex(WORDS + digits + REST), 'isolated'),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
  built.decoder = tokenizers.decoders.ByteLevel()
  built.train_from_iterator(texts(), trainers.BpeTrainer(
      vocab_size=256 + MERGES, show_progress=False,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
  return built


def save(
    built: tokenizers.Tokenizer, folder: Path, settings: dict[str, Any],
    eos: Sequence[str], **generation: Any) -> None:
  """Writes a directory; the template is there already."""
  folder.mkdir(parents=True, exist_ok=True)
  built.save(str(folder / 'tokenizer.json'), pretty=False)
  write = lambda name, tree: (folder / name).write_text(
      json.dumps(tree, indent=1) + '\n')
  write('tokenizer_config.json', {
      'clean_up_tokenization_spaces': False, 'model_max_length': 4096,
      **settings})
  write('generation_config.json', {
      'eos_token_id': [built.token_to_id(token) for token in eos],
      'do_sample': True, **generation})


def llama3(folder: Path) -> None:
  """Digits by threes, a begin token, three stops and no pad token."""
  built = trained(r'\p{N}{1,3}', normal_form=False)
  built.add_special_tokens(list(LLAMA3))
  bos = LLAMA3[0], built.token_to_id(LLAMA3[0])
  built.post_processor = processors.TemplateProcessing(
      single=f'{bos[0]} $A', pair=f'{bos[0]} $A {bos[0]} $B',
      special_tokens=[bos])
  save(built, folder, {
      'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': bos[0],
      'eos_token': '<|eot_id|>'},
      ('<|end_of_text|>', '<|eom_id|>', '<|eot_id|>'), bos_token_id=bos[1],
      temperature=0.6, top_p=0.9)


def qwen2(folder: Path) -> None:
  """Digits one by one, no begin token; the pad token is a stop as well."""
  built = trained(r'\p{N}', normal_form=True)
  built.add_special_tokens(list(QWEN2))
  built.add_tokens([
      tokenizers.AddedToken(token, normalized=False, special=False)
      for token in QWEN2_PLAIN])
  save(built, folder, {
      'tokenizer_class': 'Qwen2Tokenizer', 'bos_token': None,
      'eos_token': '<|im_end|>', 'pad_token': '<|endoftext|>',
      'unk_token': None, 'add_prefix_space': False},
      ('<|im_end|>', '<|endoftext|>'),
      pad_token_id=built.token_to_id('<|endoftext|>'), temperature=0.7,
      top_k=20, top_p=0.8, repetition_penalty=1.05)


if __name__ == '__main__':  # makes the shipped assets again
  shelf = Path(__file__).parents[1] / 'assets'
  llama3(shelf / 'llama3_chat')
  qwen2(shelf / 'qwen2_chat')
