"""Directories in and out: what is imported is what is exported."""
import json
import pathlib
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from rlft import api, exchange, tokenizer, weights
from rlft import config as door
from rlft.hf import architecture
from rlft.ops import trees
from tests import llama, tiny

CHAT = tokenizer.ASSETS / 'llama3_chat'


def directory(folder: pathlib.Path, **options) -> pathlib.Path:
  """A random Llama with a chat tokenizer of as many tokens."""
  rows = tokenizer.load(f'hf:{CHAT}').vocabulary
  found = llama.tensors()
  rng = np.random.default_rng(5)
  for name in ('model.embed_tokens.weight', 'lm_head.weight'):
    found[name] = rng.normal(size=(rows, 32)).astype(np.float32) / 6
  if options.get('tie_word_embeddings'):
    found.pop('lm_head.weight')
  made = llama.write(folder, found, vocab_size=rows, **options)
  for path in CHAT.iterdir():
    shutil.copyfile(path, made / path.name)
  return made


def files(folder: pathlib.Path) -> dict[str, bytes]:
  return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize('options', [
    dict(), dict(shards=3), dict(dtype=ml_dtypes.bfloat16, shards=2),
    dict(tie_word_embeddings=True)], ids=str)
def test_what_comes_in_goes_out_byte_for_byte(tmp_path, options):
  source = directory(tmp_path / 'hf', **options)
  exchange.take(source, tmp_path / 'run')
  shutil.move(source, tmp_path / 'gone')  # the run is complete by itself
  done = exchange.give(f'{tmp_path}/run@0', tmp_path / 'out')
  assert done['like'] == str(tmp_path / 'run' / architecture.KEPT)
  assert files(tmp_path / 'out') == files(tmp_path / 'gone')


def test_other_parts_are_kept_as_they_are(tmp_path):
  """Mllama's cross-attention layers and vision model, in any dtype."""
  source = directory(tmp_path / 'hf')
  config = json.loads((source / 'config.json').read_text())
  config['num_hidden_layers'], config['cross_attention_layers'] = 5, [2]
  text = {k: v for k, v in config.items() if k != 'model_type'}
  (source / 'config.json').write_text(json.dumps(
      {'model_type': 'mllama', 'text_config': text}))
  found = safetensors.numpy.load_file(source / 'model.safetensors')
  stem, renamed = 'language_model.', {}
  for name, x in found.items():
    words = name.split('.')
    if words[1] == 'layers' and int(words[2]) > 1:
      words[2] = str(int(words[2]) + 1)
    renamed[stem + '.'.join(words)] = x
  embed = f'{stem}model.embed_tokens.weight'
  renamed[embed] = np.concatenate([renamed[embed], np.ones((8, 32), 'f4')])
  renamed |= {f'{stem}model.layers.2.cross_attn.q_proj.weight': np.eye(3),
              'vision_model.patch.weight': np.arange(6, dtype=np.int8)}
  safetensors.numpy.save_file(
      renamed, source / 'model.safetensors', metadata={'format': 'pt'})
  exchange.take(source, tmp_path / 'run')
  policy = weights.load(f'{tmp_path}/run@0')['policy']
  assert policy['layers']['mlp']['up']['kernel'].shape[0] == 4
  np.testing.assert_array_equal(
      policy['layers']['mlp']['up']['kernel'][2],
      found['model.layers.2.mlp.up_proj.weight'].T)
  exchange.give(f'{tmp_path}/run@0', tmp_path / 'out')
  assert files(tmp_path / 'out') == files(source)


def run_from(init: str, run_dir: pathlib.Path, **changes):
  """Two steps of SFT in a chat, from a checkpoint that says all the rest."""
  config = tiny.sft_config(2)
  config.init, config.tokenizer, config.model.preset = init, '', ''
  config.env.text = 'paper'
  config.experience = dict(name='demonstrations', rows=2, length=1024)
  config.evals, config.num_steps = door.EMPTY(), 2
  config.evaluate.steps, config.checkpoint.steps = (), (2,)
  for key, value in changes.items():
    config[key] = value
  return api.run(config, run_dir)


@pytest.mark.slow
def test_a_run_of_a_run_is_exported_as_the_first_directory(tmp_path):
  """Through an imported run and one that starts from it."""
  source = directory(tmp_path / 'hf', dtype=ml_dtypes.bfloat16, shards=2)
  exchange.take(source, tmp_path / 'run')
  run_from(f'{tmp_path}/run@0', tmp_path / 'sft')
  made = json.loads((tmp_path / 'sft' / 'config.json').read_text())
  assert made['tokenizer'] == f'hf:{tmp_path}/run/{architecture.KEPT}'
  assert made['model']['shape']['kv_heads'] == 2
  exchange.give(f'{tmp_path}/sft@2', tmp_path / 'out')
  before, after = files(source), files(tmp_path / 'out')
  changed = {name for name in before if before[name] != after[name]}
  assert before.keys() == after.keys()
  assert changed == {n for n in before if n.endswith('.safetensors')}
  want = trees.named(weights.load(f'{tmp_path}/sft@2')['policy'])
  got = trees.named(weights.load(f'hf:{tmp_path}/out')['policy'])
  for path, x in want.items():
    np.testing.assert_array_equal(
        got[path], x.astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.slow
def test_a_run_may_start_from_a_directory(tmp_path):
  source = directory(tmp_path / 'hf')
  run_from(f'hf:{source}', tmp_path / 'sft')
  exchange.give(f'{tmp_path}/sft@2', tmp_path / 'out')
  assert files(tmp_path / 'out').keys() == files(source).keys()


def test_a_config_that_leaves_its_model_open_needs_an_init(tmp_path):
  with pytest.raises(ValueError, match='no init to take them from'):
    run_from('', tmp_path / 'sft')


def test_a_preset_of_another_model_is_refused(tmp_path):
  source = directory(tmp_path / 'hf')
  with pytest.raises(ValueError, match='was made with the model'):
    run_from(f'hf:{source}', tmp_path / 'sft', model=dict(
        name='transformer', preset='tiny', dtype='float32',
        shape=door.EMPTY()))
  assert not (tmp_path / 'sft').exists()


def test_what_was_not_imported_is_exported_like_another(tmp_path):
  source = directory(tmp_path / 'hf')
  run_from(f'hf:{source}', tmp_path / 'sft')
  shutil.move(source, tmp_path / 'moved')
  with pytest.raises(ValueError, match=r'config\.json is missing'):
    exchange.give(f'{tmp_path}/sft@2', tmp_path / 'out')
  exchange.give(f'{tmp_path}/sft@2', tmp_path / 'out',
                like=str(tmp_path / 'moved'))
  with pytest.raises(ValueError, match='give one of the same architecture'):
    exchange.give('asset:points24_nano', tmp_path / 'other')
  assert not (tmp_path / 'other').exists()
  other = directory(tmp_path / 'wide', intermediate_size=96)
  with pytest.raises(ValueError, match=(
      r'the checkpoint and .*/wide are of different architectures: '
      r'layers/mlp/down/kernel is .* and .* \(3 such\): name a directory')):
    exchange.give(f'{tmp_path}/sft@2', tmp_path / 'other', like=str(other))
  assert not (tmp_path / 'other').exists()


def test_weights_that_are_not_finite_do_not_go_out(tmp_path):
  source = directory(tmp_path / 'hf', dtype=np.float16)
  exchange.take(source, tmp_path / 'run')
  from rlft.hf import writing
  policy = weights.load(f'{tmp_path}/run@0')['policy']
  policy['final_norm']['scale'] = policy['final_norm']['scale'] * 1e9
  with pytest.raises(ValueError, match=r'model\.norm\.weight is not finite'):
    (tmp_path / 'out').mkdir()
    writing.write(policy, tmp_path / 'run' / architecture.KEPT,
                  tmp_path / 'out')


@pytest.mark.parametrize('spoil, complaint', [
    (lambda d: (d / 'chat_template.jinja').unlink(), 'chat_template'),
    (lambda d: (d / 'config.json').write_text('{"model_type": "gpt2"}'),
     "model_type 'gpt2' is not known"),
    (lambda d: (d / 'model.safetensors').rename(d / 'pytorch_model.bin'),
     'pickled weights only'),
])
def test_what_cannot_be_imported_leaves_nothing(tmp_path, spoil, complaint):
  source = directory(tmp_path / 'hf')
  spoil(source)
  with pytest.raises(ValueError, match=complaint):
    exchange.take(source, tmp_path / 'run')
  assert [p.name for p in tmp_path.iterdir()] == ['hf']


@pytest.mark.slow
def test_an_inherited_tokenizer_is_told_what_its_own_run_told_it(tmp_path):
  source = directory(tmp_path / 'hf')
  day = dict(date_string='01 Feb 2025')
  run_from(f'hf:{source}', tmp_path / 'first', chat=day)
  run_from(f'{tmp_path}/first@2', tmp_path / 'second')
  run_from(f'{tmp_path}/first@2', tmp_path / 'third',
           chat=dict(date_string='02 Feb 2025'))
  told = [json.loads((tmp_path / name / 'config.json').read_text())['chat']
          for name in ('second', 'third')]
  assert told == [day, dict(date_string='02 Feb 2025')]
