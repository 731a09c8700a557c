"""What a config.json says, in both spellings, and what is refused of it."""
import copy
import json

import pytest

from rlft.hf import architecture
from tests.parity import draw, fixtures

LLAMA = 'llama3_factor_8'  # spelled as transformers 4 did
QWEN = 'qwen3_tied_wide_heads'
MLLAMA = 'mllama_first_layer_crosses'


def config(name):
  return json.loads((fixtures.ROOT / name / 'config.json').read_text())


@pytest.mark.parametrize('name', draw.FIXTURES)
def test_both_spellings_of_a_rope_say_the_same(name):
  found = config(name)
  text = found.get('text_config', found)
  section = draw.FIXTURES[name].rope
  for field in ('rope_theta', 'rope_scaling', 'rope_parameters'):
    text.pop(field, None)
  text['rope_parameters'] = section
  newer = architecture.parse(copy.deepcopy(found), 'c')
  del text['rope_parameters']
  text['rope_theta'] = section['rope_theta']
  text['rope_scaling'] = {
      k: v for k, v in section.items() if k != 'rope_theta'}
  assert architecture.parse(found, 'c') == newer
  assert newer.shape == architecture.read(fixtures.ROOT / name).shape


def test_mllamas_layers_keep_their_numbers():
  found = architecture.read(fixtures.ROOT / MLLAMA)
  assert (found.layers, found.shape['layers']) == ((1, 2, 5), 3)
  assert found.shape['extra_embeddings'] == 8
  assert found.partial


def refused(found):
  with pytest.raises(ValueError) as caught:
    architecture.parse(found, 'DIR/config.json')
  message = str(caught.value)
  assert message.startswith('DIR/config.json') and '\n' not in message
  return message


@pytest.mark.parametrize('change, says', [
    (dict(model_type='gpt2'),
     "model_type 'gpt2' is not known; known: llama, qwen2, qwen3, mllama"),
    (dict(model_type=None), 'model_type None is not known'),
    (dict(model_type=['llama']), 'model_type'),
    (dict(hidden_size=None), 'hidden_size is missing'),
    (dict(hidden_size='64'), "hidden_size is '64', no whole number"),
    (dict(num_hidden_layers=0), 'num_hidden_layers is 0'),
    (dict(num_attention_heads=True), 'num_attention_heads is True'),
    (dict(vocab_size=2.5), 'vocab_size is 2.5'),
    (dict(rms_norm_eps=None), 'rms_norm_eps is missing'),
    (dict(rms_norm_eps=float('nan')), 'rms_norm_eps is nan'),
    (dict(rope_theta=None), 'rope_theta is missing'),
    (dict(rope_theta=-1.0), 'rope_theta is -1.0'),
    (dict(rope_scaling=dict(rope_type='yarn', factor=4.0)),
     "rope_scaling: rope_type 'yarn' is not known; known: default, linear"),
    (dict(rope_scaling=dict(type='dynamic', factor=4.0)),
     "rope_scaling: rope_type 'dynamic' is not known"),
    (dict(rope_scaling=dict(rope_type=['llama3'])), 'rope_scaling: rope_type'),
    (dict(rope_scaling=dict(rope_type='linear')), 'factor is missing'),
    (dict(rope_scaling=dict(rope_type='llama3', factor=8.0)),
     'rope_scaling: low_freq_factor is missing'),
    (dict(rope_scaling='llama3'), "rope_scaling='llama3' is no object"),
    (dict(partial_rotary_factor=0.5), 'partial_rotary_factor=0.5'),
    (dict(attn_logit_softcapping=30.0), 'attn_logit_softcapping=30.0'),
    (dict(residual_multiplier=0.2),
     'residual_multiplier=0.2 is not supported, only 1.0'),
    (dict(quantization_config=dict(quant_method='fp8')),
     'quantization_config'),
    (dict(use_sliding_window=True), 'use_sliding_window=True'),
    (dict(layer_types=['full_attention', 'sliding_attention']),
     'layer_types'),
    (dict(layer_types=3), 'layer_types=3'),
    (dict(auto_map={'AutoModel': 'evil.Model'}), 'auto_map'),
    (dict(attention_bias=True), 'attention_bias=True is not supported'),
    (dict(mlp_bias=True), 'mlp_bias=True is not supported'),
    (dict(hidden_act='gelu'), "hidden_act='gelu' is not supported"),
    (dict(hidden_act=['silu']), 'hidden_act'),
    (dict(tie_word_embeddings='yes'), "tie_word_embeddings='yes'"),
    (dict(head_dim=7.5), 'head_dim is 7.5'),
    (dict(head_dim=7), 'head_dim'),
    (dict(num_key_value_heads=3), 'num_key_value_heads'),
    (dict(hidden_size=66), 'hidden_size'),
])
def test_what_is_refused_is_named(change, says):
  found = {k: v for k, v in (config(LLAMA) | change).items() if v is not None}
  assert says in refused(found)


def test_a_missing_head_size_is_not_guessed():
  found = config(QWEN)
  del found['head_dim']
  assert 'head_dim is missing' in refused(found)


@pytest.mark.parametrize('change, says', [
    (dict(cross_attention_layers=None), 'cross_attention_layers'),
    (dict(cross_attention_layers=['1']), "cross_attention_layers=['1']"),
    (dict(cross_attention_layers=[6]), 'cross_attention_layers'),
    (dict(cross_attention_layers=[0, 1, 2, 3, 4, 5]),
     'cross_attention_layers'),
    (dict(attention_bias=True), 'text_config: attention_bias=True'),
    (dict(rope_scaling=dict(rope_type='yarn')), "rope_type 'yarn'"),
])
def test_a_fault_of_mllamas_text_is_named(change, says):
  found = config(MLLAMA)
  found['text_config'] |= change
  assert says in refused(found)


def test_mllama_without_a_text_config_is_refused():
  assert 'text_config is missing' in refused(dict(model_type='mllama'))


@pytest.mark.parametrize('text, says', [
    ('{', 'is damaged'), ('[]', 'is damaged'), (None, 'is missing')])
def test_a_config_that_is_no_config_is_refused(tmp_path, text, says):
  if text is not None:
    (tmp_path / 'config.json').write_text(text)
  with pytest.raises(ValueError, match=says) as caught:
    architecture.read(tmp_path)
  assert str(tmp_path / 'config.json') in str(caught.value)
