"""What transformers and torch say of a drawn model.

Weights are such that a wrong detail shows: attention is far from uniform,
norms are away from 1 and biases from 0, and the embedding is small enough for
an epsilon to matter.
"""
import json
import pathlib
import tempfile
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

from tests.parity import draw
from tests.parity.numbers import Asked, Numbers

transformers.utils.logging.disable_progress_bar()
NEW = 12  # tokens of a greedy continuation


def make(case: draw.Case, folder: pathlib.Path) -> tuple[Asked, Numbers]:
  """Writes the checkpoint; returns what to ask of it and its answers."""
  torch.manual_seed(case.seed)
  model = _model(case)
  _randomise(model)
  _save(case, model.to(getattr(torch, case.dtype)), folder)
  asked = _asked(case)
  return asked, answers(folder, asked)


def answers(folder: pathlib.Path, asked: Asked) -> Numbers:
  """The numbers of whatever checkpoint transformers finds in a directory."""
  model = load(folder)
  logits, hidden = _forward(model, asked)
  written, margins = _greedy(model, asked)
  loss, gradients = _gradients(model, asked)
  return Numbers(logits, hidden, loss, gradients, written, margins)


def load(folder: pathlib.Path) -> torch.nn.Module:
  """The model in float32; an error when transformers would warn."""
  config = transformers.AutoConfig.from_pretrained(folder)
  kind = getattr(transformers, draw.CLASSES[config.model_type])
  model, told = kind.from_pretrained(
      folder, dtype=torch.float32, attn_implementation='eager',
      output_loading_info=True)
  wrong = {k: v for k, v in told.items() if v}
  if wrong:
    raise ValueError(f'{folder}: transformers loads it with {wrong}')
  return model.eval()


def _model(case: draw.Case) -> torch.nn.Module:
  kind = getattr(transformers, draw.CLASSES[case.family])
  if case.family == 'mllama':
    made = kind.config_class(
        text_config=dict(case.config, model_type='mllama_text_model'),
        vision_config=draw.VISION, image_token_index=case.config['vocab_size'])
  else:
    made = kind.config_class(**case.config)
  return kind(made).float()


@torch.no_grad()
def _randomise(model: torch.nn.Module) -> None:
  for name, p in model.named_parameters():
    if name.endswith('bias') or 'gate' in name.rpartition('.')[2]:
      p.normal_(0, .5)
    elif p.ndim == 1:
      p.copy_(1 + .3 * torch.randn_like(p))
    elif 'embed_tokens' in name:
      p.normal_(0, .3)
    else:
      sharp = 1.5 if 'q_proj' in name or 'k_proj' in name else 1
      p.normal_(0, sharp / p.shape[-1]**.5)


def _save(
    case: draw.Case, model: torch.nn.Module, folder: pathlib.Path,
) -> None:
  size = sum(p.nbytes for p in model.parameters())
  folder.mkdir(parents=True, exist_ok=True)
  model.save_pretrained(
      folder, save_original_format=case.old_names,
      max_shard_size=int(1.2 * size / case.shards))
  path = folder / 'config.json'
  found = json.loads(path.read_text())
  if case.spelling == 'rope_scaling':
    path.write_text(json.dumps(_older(found), indent=2) + '\n')
  if case.twin:
    path = folder / 'model.safetensors'
    tensors = safetensors.torch.load_file(path)
    tensors['lm_head.weight'] = tensors['model.embed_tokens.weight'].clone()
    safetensors.torch.save_file(tensors, path, metadata={'format': 'pt'})


def _older(found: dict[str, Any]) -> dict[str, Any]:
  """The config as transformers 4 wrote it."""
  found = dict(found)
  if 'text_config' in found:
    found['text_config'] = _older(found['text_config'])
  if 'dtype' in found:
    found['torch_dtype'] = found.pop('dtype')
  if found['model_type'] == 'llama' and found['head_dim'] * found[
      'num_attention_heads'] == found['hidden_size']:
    del found['head_dim']
  rope = found.pop('rope_parameters', None)
  if rope:
    found['rope_theta'] = rope.pop('rope_theta')
    if rope['rope_type'] == 'linear':  # its oldest spelling
      rope['type'] = rope.pop('rope_type')
    found['rope_scaling'] = (
        None if rope.get('rope_type') == 'default' else rope)
  return found


def _asked(case: draw.Case) -> Asked:
  """Rows: a whole one, one padded at its left, one at its right."""
  rng = np.random.default_rng(case.seed)
  pad = case.config['pad_token_id']
  tokens = rng.integers(0, pad, (3, case.length)).astype(np.int32)
  tokens[1, :7], tokens[2, -9:] = pad, pad
  mask = rng.random(tokens.shape) < .6
  mask = mask & (tokens != pad) & (np.cumsum(tokens != pad, axis=1) > 5)
  prompts = rng.integers(0, pad, (3, 21)).astype(np.int32)
  prompts[1, :8], prompts[2, :18] = pad, pad
  return Asked(tokens, mask, prompts, pad, NEW)


def _inputs(tokens: np.ndarray, seen: np.ndarray) -> dict[str, torch.Tensor]:
  """Padding is what is not `seen`; positions count what is."""
  seen = torch.tensor(seen).long()
  return dict(
      input_ids=torch.tensor(tokens, dtype=torch.long), attention_mask=seen,
      position_ids=(seen.cumsum(1) - 1).clamp(min=0))


@torch.no_grad()
def _forward(model, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
  caught = []
  handle = model.lm_head.register_forward_pre_hook(
      lambda module, inputs: caught.append(inputs[0]))
  out = model(**_inputs(asked.tokens, asked.tokens != asked.pad))
  handle.remove()
  return out.logits.numpy(), caught[0].numpy()


def logits(model: torch.nn.Module, asked: Asked) -> np.ndarray:
  """Of every position, and nothing else."""
  return _forward(model, asked)[0]


@torch.no_grad()
def moved(model: torch.nn.Module) -> torch.nn.Module:
  """The same model, each weight moved by up to its last bit."""
  for p in model.parameters():
    p.mul_(1 + 2**-23 * (2 * torch.rand_like(p) - 1))
  return model


@torch.no_grad()
def _greedy(model, asked: Asked) -> tuple[np.ndarray, np.ndarray]:
  """Every token from the whole text before it, and how clear its choice was.

  No cache: this is what a cache has to give. After a pad token nothing is
  clear, as rlft takes it for padding wherever it stands.
  """
  tokens, seen, margins = asked.prompts, asked.prompts != asked.pad, []
  for _ in range(asked.new):
    logits = model(**_inputs(tokens, seen), use_cache=False).logits[:, -1]
    (first, second), best = (x.T for x in logits.topk(2, dim=-1))
    chosen = best[0].numpy().astype(np.int32)
    margin = ((first - second) / logits.abs().amax(-1)).numpy()
    margins.append(np.where(chosen == asked.pad, 0, margin))
    tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
    seen = np.pad(seen, ((0, 0), (0, 1)), constant_values=True)
  return tokens[:, asked.prompts.shape[1]:], np.stack(margins, 1)


@torch.no_grad()
def generate(model: torch.nn.Module, asked: Asked) -> np.ndarray:
  """The same by its own door, with its cache."""
  seen = asked.prompts != asked.pad
  inputs = _inputs(asked.prompts, seen)
  del inputs['position_ids']
  model.generation_config = transformers.GenerationConfig(
      do_sample=False, max_new_tokens=asked.new, pad_token_id=asked.pad)
  found = model.generate(**inputs)
  return found[:, seen.shape[1]:].numpy().astype(np.int32)


def _gradients(model, asked: Asked) -> tuple[float, dict[str, np.ndarray]]:
  """SFT: the mean negative log-likelihood of the tokens of the mask."""
  logits = model(**_inputs(asked.tokens, asked.tokens != asked.pad)).logits
  log_p = logits[:, :-1].log_softmax(-1).gather(
      -1, torch.tensor(asked.tokens, dtype=torch.long)[:, 1:, None])[..., 0]
  mask = torch.tensor(asked.mask[:, 1:])
  loss = -log_p[mask].mean()
  loss.backward()
  with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
    for p in model.parameters():  # saved like weights, they get their names
      p.copy_(torch.zeros_like(p) if p.grad is None else p.grad)
    model.save_pretrained(folder)
    found = safetensors.torch.load_file(f'{folder}/model.safetensors')
  return loss.item(), {k: v.numpy() for k, v in found.items()}
