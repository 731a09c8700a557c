"""Names of tensors: layers, modules, selection; and pairs of checkpoints."""
import re

import numpy as np
import pytest

from rlft import checkpoints
from rlft.checkpoints import names, pairs
from rlft.checkpoints.names import Place
from tests import llama

WEIGHTS = llama.tensors()


def opened(folder, tensors, **options):
  return checkpoints.open(str(llama.write(folder, tensors, **options)))


def test_the_default_takes_the_linear_maps_of_the_blocks(tmp_path):
  found = opened(tmp_path / 'm', WEIGHTS)
  chosen = names.select(found, None)
  assert sorted(chosen) == sorted(
      k for k in WEIGHTS if '_proj' in k and len(k) > 8)
  places = names.places(found.tensors, chosen, found.kind)
  assert [(p.layer, p.module) for p in places] == [
      (layer, m) for layer in range(4) for m in llama.MODULES]
  assert {p.stack for p in places} == {'model.layers'}
  assert names.depths(found.tensors) == {'model.layers': 4}


def test_what_the_default_leaves_in_the_blocks_is_told(tmp_path):
  square = np.ones((4, 4), np.float32)
  found = opened(tmp_path / 'm', {
      'h.0.attention.dense.weight': square, 'h.0.q.weight': square,
      'h.1.q.weight': square, 'wte.weight': square,
      'pooler.dense.weight': square})
  assert names.select(found, None) == ['h.0.attention.dense.weight']
  text = names.left_out(found, None)
  assert text.startswith('2 matrices of blocks') and ': q;' in text
  assert names.left_out(found, 'q') is None  # asked for
  assert names.left_out(opened(tmp_path / 'l', WEIGHTS), None) is None


def test_any_matrix_can_be_selected(tmp_path):
  found = opened(tmp_path / 'm', WEIGHTS)
  assert names.select(found, 'embed|lm_head') == [
      k for k in found.tensors if 'embed' in k or 'lm_head' in k]
  place, = names.places(found.tensors, ['lm_head.weight'], 'directory')
  assert place == Place('lm_head.weight', None, '', 0, None, 'lm_head')


def test_vectors_that_match_are_left_out_and_told(tmp_path):
  found = opened(tmp_path / 'm', WEIGHTS)
  assert names.select(found, '.') == [
      k for k, v in found.tensors.items() if len(v.shape) == 2]
  assert re.fullmatch(
      r'\d+ tensors that match are vectors and are left out, such as .*norm.*',
      names.left_out(found, '.'))
  assert names.left_out(found, 'q_proj.weight') is None


@pytest.mark.parametrize('pattern, complaint', [
    ('zebra', "matches 'zebra'; .* model.layers.N.self_attn.q_proj.weight"),
    ('norm', "no matrix of .* matches 'norm'; give --select=REGEX for lm_head"),
    ('(', 'is no regex')])
def test_a_selection_that_makes_no_sense_is_refused(
    tmp_path, pattern, complaint):
  with pytest.raises(ValueError, match=complaint):
    names.select(opened(tmp_path / 'm', WEIGHTS), pattern)


def test_whole_numbers_are_not_decomposed(tmp_path):
  found = opened(tmp_path / 'm', {'a.0.q_proj.weight': np.ones((2, 2))},
                 dtype=np.int8)
  with pytest.raises(ValueError, match='is I8, and only F32, F16, BF16'):
    names.select(found, None)


@pytest.mark.parametrize('given, short', [
    (['model.layers.0.self_attn.q_proj.weight',
      'model.layers.11.self_attn.q_proj.weight'], ['q_proj', 'q_proj']),
    (['l.0.mlp.experts.3.w1.weight', 'l.0.mlp.shared_experts.w1.weight',
      'l.1.mlp.w1.weight'], ['experts.w1', 'shared_experts.w1', 'mlp.w1']),
    (['encoder.layers.0.q.weight', 'decoder.layers.0.q.weight'],
     ['encoder.layers.q', 'decoder.layers.q']),
    (['layers/attention/query/kernel', 'layers/mlp/down/kernel'],
     ['query', 'down']),
    (['weight', 'x.weight'], ['weight', 'x'])])
def test_modules_are_as_short_as_they_can_be(given, short):
  assert list(names.modules(given).values()) == short


def test_experts_are_told_apart(tmp_path):
  stack = np.ones((3, 4, 5), np.float32)
  found = opened(tmp_path / 'm', {
      'layers.1.experts.up_proj': stack,
      'layers.0.experts.10.up_proj.weight': stack[0],
      'layers.0.experts.2.up_proj.weight': stack[0]})
  places = names.places(found.tensors, names.select(found, None), found.kind)
  assert [(p.layer, p.expert, p.index) for p in places] == [
      (0, 2, None), (0, 10, None), (1, 0, 0), (1, 1, 1), (1, 2, 2)]


def test_the_leaves_of_an_asset_stay_stacks():
  found = checkpoints.open('asset:points24_nano')
  places = names.places(found.tensors, names.select(found, None), found.kind)
  assert {p.module for p in places} == {
      'query', 'key', 'value', 'out', 'gate', 'up', 'down'}
  assert all(p.index is None and p.stack == 'layers' for p in places)


@pytest.mark.parametrize('change, complaint', [
    (lambda w: w | {'more.weight': np.ones((2, 2), np.float32)},
     r'more\.weight is in .*two, but not in .*one \(1 such\)'),
    (lambda w: {k: v for k, v in w.items() if '3.mlp' not in k},
     r'layers\.3\.mlp\.down_proj\.weight is in .*one, .* \(3 such\)'),
    (lambda w: w | {'model.norm.weight': np.ones(33, np.float32)},
     r'differ in shape: model\.norm\.weight is \[32\] in .*one and \[33\] in'),
    (lambda w: {k: v for k, v in w.items() if k != 'lm_head.weight'},
     r'one has a head of its own \(lm_head\.weight\), .*two ties it')])
def test_other_models_are_refused(tmp_path, change, complaint):
  one = opened(tmp_path / 'one', WEIGHTS)
  two = opened(tmp_path / 'two', change(dict(WEIGHTS)))
  pairs.same(one, one)
  with pytest.raises(ValueError, match=complaint):
    pairs.same(one, two)


def test_other_dtypes_and_kinds_are_refused(tmp_path):
  one = opened(tmp_path / 'one', WEIGHTS)
  two = opened(tmp_path / 'two', WEIGHTS, dtype=np.float16)
  with pytest.raises(ValueError, match=r'differ in dtype: .* F32 .* F16 .*39'):
    pairs.same(one, two)
  with pytest.raises(ValueError, match='is a directory of safetensors and'):
    pairs.same(one, checkpoints.open('asset:points24_nano'))
