"""What a study says of itself, and how the size of its model is found."""
import json

import jax

from rlft import weights
from rlft.report import provenance, tables

NANO = {'model': {'name': 'transformer', 'preset': 'nano', 'dtype': 'float32'},
        'tokenizer': 'asset:points24'}


def about(study):
  return provenance.about(study, tables.read(study))


def test_a_recorded_size_is_taken(study):
  found = about(study)
  assert found['model'] == {'name': 'transformer', 'parameters': 870_000}
  assert found['command'].startswith('rlft run') and not found['warnings']


def test_the_size_is_counted_from_a_run_otherwise(study):
  (study / 'config.json').write_text('{"model": {"preset": "nano"}}')
  (study / 'sft_0' / 'config.json').write_text(json.dumps(NANO))
  shipped = weights.load('asset:points24_nano')['policy']
  assert about(study)['model'] == {
      'name': 'nano',
      'parameters': sum(x.size for x in jax.tree.leaves(shipped))}


def test_an_unknown_model_has_no_size_and_says_so(study):
  (study / 'config.json').write_text(json.dumps({
      'model': {'name': 'oracle'}, 'tokenizer': 'asset:points24'}))
  found = about(study)
  assert found['model'] == {'name': 'oracle', 'parameters': None}
  assert found['warnings'] == [
      'the size of the model cannot be told from the config']
