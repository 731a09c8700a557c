"""Every tensor has a place and every parameter a tensor, or names are told."""
import jax
import pytest

from rlft.checkpoints import directory
from rlft.checkpoints.tensor import Tensor
from rlft.hf import architecture, names
from rlft.models import transformer
from rlft.ops import trees
from tests.parity import fixtures


def read(name):
  """Shapes of the parameters, the architecture, the checkpoint's tensors."""
  folder = fixtures.ROOT / name
  found = architecture.read(folder)
  model = transformer.make(
      vocabulary=found.shape['vocabulary'], shape=found.shape)
  like = jax.eval_shape(
      lambda key: transformer.initialise(model, key), jax.random.key(0))
  shapes = {k: x.shape for k, x in trees.named(like).items()}
  return shapes, found, dict(directory.read(str(folder)).tensors)


def refused(shapes, found, tensors):
  with pytest.raises(ValueError) as caught:
    names.plan(shapes, found, tensors, 'DIR')
  message = str(caught.value)
  assert message.startswith('DIR') and '\n' not in message
  return message


def test_a_llamas_tensors_by_hand():
  made = names.plan(*read('llama3_factor_8'), 'DIR')
  assert made.parameters['layers/attention/query/kernel'] == (
      ('model.layers.0.self_attn.q_proj.weight',
       'model.layers.1.self_attn.q_proj.weight'), True, True)
  assert made.parameters['embed/embedding'] == (
      ('model.embed_tokens.weight',), False, False)
  assert made.parameters['head/kernel'] == (('lm_head.weight',), False, True)
  assert (made.twin, made.others) == (None, ())


def test_mllamas_layers_by_hand():
  made = names.plan(*read('mllama_first_layer_crosses'), 'DIR')
  stem = 'language_model.model.'
  assert made.parameters['layers/mlp/up/kernel'].tensors == tuple(
      f'{stem}layers.{i}.mlp.up_proj.weight' for i in (1, 2, 5))
  kept = set(made.others)
  assert f'{stem}layers.0.cross_attn.q_proj.weight' in kept
  assert f'{stem}layers.0.mlp.up_proj.weight' in kept
  assert 'multi_modal_projector.weight' in kept
  assert not any(f'{stem}layers.1.' in name for name in kept)


def test_mllamas_newer_names():
  made = names.plan(*read('mllama'), 'DIR')
  assert made.parameters['final_norm/scale'].tensors == (
      'model.language_model.norm.weight',)
  assert made.parameters['head/kernel'].tensors == ('lm_head.weight',)


def test_missing_tensors_are_listed():
  shapes, found, tensors = read('qwen2')
  gone = [name for name in tensors if name.endswith('bias')]
  assert len(gone) == 6
  for name in gone:
    del tensors[name]
  message = refused(shapes, found, tensors)
  assert message.startswith('DIR lacks model.layers.0.self_attn.')
  assert message.count('_proj.bias') == 5 and 'and 1 more' in message


@pytest.mark.parametrize('fixture, name', [
    ('llama3_factor_8', 'model.layers.0.self_attn.q_proj.bias'),
    ('llama3_factor_8', 'model.layers.2.mlp.up_proj.weight'),
    ('llama3_factor_8', 'vision_model.norm.weight'),
    ('qwen2', 'model.layers.1.self_attn.o_proj.bias'),
    ('llama_linear_sharded', 'model.layers.0.self_attn.q_norm.weight'),
    ('mllama', 'model.language_model.layers.0.self_attn.q_proj.bias'),
    ('mllama', 'model.language_model.layers.0.cross_attn.q_proj.weight'),
    ('mllama', 'other.weight')])
def test_a_tensor_without_a_place_is_named(fixture, name):
  shapes, found, tensors = read(fixture)
  message = refused(shapes, found, tensors | {name: Tensor((4,), 'F32')})
  assert f'holds {name}, for which' in message


def test_an_untied_head_that_is_missing_is_named():
  shapes, found, tensors = read('llama3_factor_8')
  del tensors['lm_head.weight']
  assert 'lacks lm_head.weight' in refused(shapes, found, tensors)


def test_a_tied_head_of_another_size_is_named():
  shapes, found, tensors = read('llama_tied_twin')
  tensors['lm_head.weight'] = Tensor((63, 32), 'F16')
  assert 'lm_head.weight is not like model.embed_tokens.weight' in refused(
      shapes, found, tensors)


def test_what_old_checkpoints_computed_is_passed_over():
  shapes, found, tensors = read('llama3_factor_8')
  name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
  made = names.plan(shapes, found, tensors | {name: Tensor((8,), 'F32')}, 'D')
  assert made.others == ()


@pytest.mark.parametrize('tensor, says', [
    (Tensor((64, 65), 'F32'), 'has shape [64, 65], config.json asks for'),
    (Tensor((32, 64), 'F8_E4M3'), 'has dtype F8_E4M3; known: F32, F16, BF16'),
    (Tensor((32, 64), 'I8'), 'has dtype I8'),
    (Tensor((32, 64), 'F64'), 'has dtype F64')])
def test_a_shape_or_dtype_that_is_not_taken_is_named(tensor, says):
  shapes, found, tensors = read('llama3_factor_8')
  name = 'model.layers.1.self_attn.k_proj.weight'
  assert tensors[name].shape == (32, 64)  # (output, input)
  message = refused(shapes, found, tensors | {name: tensor})
  assert f'{name} {says}' in message
