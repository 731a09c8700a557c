"""A random Llama of a tiny size, as transformers would have saved it."""
import json
import pathlib

import ml_dtypes
import numpy as np
import safetensors.numpy
import tokenizers

CONFIG = dict(
    architectures=['LlamaForCausalLM'], model_type='llama', hidden_size=32,
    intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, vocab_size=64,
    max_position_embeddings=64, rms_norm_eps=1e-6, rope_theta=10000.0,
    hidden_act='silu', attention_bias=False, mlp_bias=False,
    tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    initializer_range=0.02)
SHAPES = {  # (output, input), as torch stores them
    'self_attn.q_proj': (32, 32), 'self_attn.k_proj': (16, 32),
    'self_attn.v_proj': (16, 32), 'self_attn.o_proj': (32, 32),
    'mlp.gate_proj': (48, 32), 'mlp.up_proj': (48, 32),
    'mlp.down_proj': (32, 48)}
MODULES = [name.split('.')[1] for name in SHAPES]


def tensors(seed: int = 0, *, tied: bool = False) -> dict[str, np.ndarray]:
  """The weights by name, float32."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: (
      rng.normal(size=shape) / shape[-1]**.5).astype(np.float32)
  found = {'model.embed_tokens.weight': normal(64, 32)}
  for layer in range(CONFIG['num_hidden_layers']):
    at = f'model.layers.{layer}.'
    for name, shape in SHAPES.items():
      found[f'{at}{name}.weight'] = normal(*shape)
    for name in ('input_layernorm', 'post_attention_layernorm'):
      found[f'{at}{name}.weight'] = 1 + .1 * normal(32)
  found['model.norm.weight'] = 1 + .1 * normal(32)
  if not tied:
    found['lm_head.weight'] = normal(64, 32)
  return found


def moved(
    found: dict[str, np.ndarray], scale: float = .02, seed: int = 1,
) -> dict[str, np.ndarray]:
  """What some training might have made of them."""
  rng = np.random.default_rng(seed)
  return {k: (v + scale * rng.normal(size=v.shape)).astype(np.float32)
          for k, v in found.items()}


def write(
    folder: pathlib.Path, found: dict[str, np.ndarray], *,
    dtype: type = np.float32, shards: int = 1, **config,
) -> pathlib.Path:
  """The directory; with more than one shard there is an index."""
  folder.mkdir(parents=True)
  kind = 'bfloat16' if dtype == ml_dtypes.bfloat16 else np.dtype(dtype).name
  (folder / 'config.json').write_text(
      json.dumps(CONFIG | {'dtype': kind} | config, indent=2) + '\n')
  (folder / 'generation_config.json').write_text(
      json.dumps({'bos_token_id': 1, 'eos_token_id': 2}) + '\n')
  built = tokenizers.Tokenizer(tokenizers.models.WordLevel(
      {'<unk>': 0, '<s>': 1, '</s>': 2, 'yes': 3, 'no': 4}, unk_token='<unk>'))
  built.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  built.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(json.dumps({
      'tokenizer_class': 'PreTrainedTokenizerFast', 'unk_token': '<unk>',
      'bos_token': '<s>', 'eos_token': '</s>'}) + '\n')
  found = {k: v.astype(dtype) for k, v in found.items()}
  labels = [
      'model.safetensors' if shards == 1
      else f'model-{i + 1:05d}-of-{shards:05d}.safetensors'
      for i in range(shards)]
  parts = np.array_split(list(found), shards)
  for label, part in zip(labels, parts, strict=True):
    safetensors.numpy.save_file(
        {str(k): found[k] for k in part}, folder / label,
        metadata={'format': 'pt'})
  if shards > 1:
    index = {
        'metadata': {'total_size': sum(v.nbytes for v in found.values())},
        'weight_map': {str(k): label for label, part in zip(
            labels, parts, strict=True) for k in part}}
    (folder / 'model.safetensors.index.json').write_text(
        json.dumps(index, indent=2) + '\n')
  return folder
