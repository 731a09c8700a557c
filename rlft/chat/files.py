"""What the files beside a chat tokenizer say: never run, only read."""
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import tokenizers

TOKENIZER, SETTINGS = 'tokenizer.json', 'tokenizer_config.json'
GENERATION, ARCHITECTURE = 'generation_config.json', 'config.json'
# what the text and the tokens of a conversation depend on
READ = (TOKENIZER, SETTINGS, 'chat_template.jinja', 'chat_template.json',
        'special_tokens_map.json', 'added_tokens.json')
EXTRA_ROWS = {'mllama': 8}  # embeddings beyond vocab_size, without a logit
# letters, digits, spaces, signs and words outside of English
PROBE = "It's 24: (10-4)*4 = 24.00!\n\n  x\tNaïve Größe — 数字 🂡 ... won't\r\n "


def read(path: Path) -> dict[str, Any]:
  """A JSON object; {} when there is no such file, else ValueError."""
  if not path.is_file():
    return {}
  try:
    found = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is no JSON: {error}') from error
  if not isinstance(found, dict):
    raise ValueError(f'{path} is no JSON object')
  return found


def open_chat(folder: Path) -> Any:
  """The transformers tokenizer of a directory, which must have a template.

  ValueError, one line, for a directory without a tokenizer, one that would run
  code of its own, one without a chat template, and one that transformers
  would read otherwise than its tokenizer.json is written.
  """
  if not (folder / TOKENIZER).is_file():
    raise ValueError(f'no tokenizer at {folder / TOKENIZER}')
  if 'auto_map' in read(folder / SETTINGS) or 'AutoTokenizer' in (
      read(folder / ARCHITECTURE).get('auto_map') or ()):
    raise ValueError(
        f'{folder / SETTINGS}: auto_map names code of its own, which is not '
        'run; save the tokenizer as tokenizer.json alone')
  # transformers would otherwise say that there is no torch
  os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
  import transformers  # slow: only who needs it waits

  said = lambda error: ' '.join(str(error).split())
  try:  # the libraries raise what they like
    written = tokenizers.Tokenizer.from_file(str(folder / TOKENIZER))
  except Exception as error:
    raise ValueError(
        f'{folder / TOKENIZER} is damaged ({said(error)}): copy it again'
    ) from error
  try:
    chat = transformers.AutoTokenizer.from_pretrained(
        folder, local_files_only=True, trust_remote_code=False)
  except Exception as error:
    raise ValueError(
        f'{folder}: transformers does not load its tokenizer: {said(error)}'
    ) from error
  if not chat.chat_template:
    raise ValueError(
        f'{folder / SETTINGS} has no chat_template (nor is there a '
        'chat_template.jinja): take a model that was made for chat, or add one')
  if chat.encode(PROBE, add_special_tokens=False) != written.encode(
      PROBE, add_special_tokens=False).ids:
    raise ValueError(
        f'{folder / SETTINGS}: tokenizer_class '
        f'{read(folder / SETTINGS).get("tokenizer_class")!r} splits text '
        f'otherwise than {TOKENIZER}; write "PreTrainedTokenizerFast"')
  return chat


def rows(folder: Path) -> tuple[int | None, int]:
  """The logits of the model beside the tokenizer, and its further embeddings.

  (None, 0) without a config.json. Embeddings are often padded beyond the
  tokenizer (Qwen2.5), and a multimodal model's text part has its own number.
  """
  path = folder / ARCHITECTURE
  about = read(path)
  if not about:
    return None, 0
  text = about.get('text_config', about)
  field = 'text_config.vocab_size' if text is not about else 'vocab_size'
  size = text.get('vocab_size') if isinstance(text, dict) else None
  if type(size) is not int or size < 1:
    raise ValueError(f'{path}: {field} is {size!r}: give a whole number from 1')
  return size, EXTRA_ROWS.get(about.get('model_type'), 0)


def ends(folder: Path, own: int | None) -> list[int]:
  """eos_token_id of generation_config.json, else config.json's, else `own`."""
  for name in (GENERATION, ARCHITECTURE):
    found = read(folder / name).get('eos_token_id')
    if found is None:
      continue
    listed = found if isinstance(found, list) else [found]
    if not all(type(x) is int and x >= 0 for x in listed):
      raise ValueError(
          f'{folder / name}: eos_token_id is {found!r}: give one token or a '
          'list of them')
    return listed
  return [] if own is None else [own]


def digest(folder: Path, *facts: Any) -> str:
  """sha256 of the files that decide how text becomes tokens, and of `facts`."""
  files = [folder / name for name in READ] + sorted(
      (folder / 'additional_chat_templates').glob('*.jinja'))
  found = {
      path.relative_to(folder).as_posix():
          hashlib.sha256(path.read_bytes()).hexdigest()
      for path in files if path.is_file()}
  return hashlib.sha256(json.dumps([found, *facts]).encode()).hexdigest()
