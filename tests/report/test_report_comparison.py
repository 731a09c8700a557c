"""compare.html: inert, self-contained, and of the numbers in the files."""
import html.parser
import json
import math

import numpy as np
import pytest

from rlft.report import comparison

HOSTILE = '</script><img src=x onerror=document.title="owned"> {{data}}'
CURVES = tuple(comparison.CURVES)
LAYERS, MODULES, RANK = 5, ('q_proj', 'experts.w1'), 40


def row(layer, module, expert=None):
  found = {
      'layer': layer, 'module': module, 'angle_top_rad': .1 + layer,
      'angle_null_rad': .1, 'value_shift': .02, 'value_shift_null': .01,
      'energy_diagonal': .1, 'energy_rotated': .7, 'energy_outside': .2,
      'energy_diagonal_null': .05, 'update_norm': 3.0, 'weight_norm': 30.0,
      'exceeds_null': True, 'tensor': f'l.{layer}.{module}'}
  return found if expert is None else found | {'expert': expert}


@pytest.fixture
def folder(tmp_path):
  """A comparison of five layers, two experts in each."""
  rows = [r for layer in range(LAYERS) for r in (
      row(layer, 'q_proj'), row(layer, 'experts.w1', 0),
      row(layer, 'experts.w1', 1) | {'angle_top_rad': .3 + layer})]
  table = {
      'before': f'/runs/{HOSTILE}', 'after': 'b', 'null': 'a null', 'top': .2,
      'warnings': [HOSTILE], 'settings': {'top': .2}, 'draws': 2,
      'versions': {'rlft': '0'},
      'inputs': {role: {'files': {HOSTILE: 'ab'}, 'tensors': {}}
                 for role in ('before', 'after')}, 'rows': rows}
  (tmp_path / 'rotation.json').write_text(json.dumps(table))
  rng = np.random.default_rng(0)
  counts = {'q_proj': LAYERS, 'experts.w1': 2 * LAYERS}
  np.savez(tmp_path / 'rotation.npz', **{
      f'{module}/{curve}': np.sort(rng.uniform(size=(counts[module], RANK)))
      for module in MODULES for curve in CURVES})
  return tmp_path


class Reader(html.parser.HTMLParser):
  def __init__(self, text):
    super().__init__()
    self.tags, self.data, self.inside = [], '', False
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.inside = ('id', 'data') in attrs
    assert not {name for name, _ in attrs} & {'src', 'href'}

  def handle_endtag(self, tag):
    self.inside = False

  def handle_data(self, data):
    if self.inside:
      self.data += data


def written(folder):
  reader = Reader(comparison.write(folder).read_text(encoding='utf-8'))
  return reader, json.loads(reader.data)


def test_a_name_cannot_write_markup(folder):
  reader, content = written(folder)
  assert 'img' not in reader.tags and reader.tags.count('script') == 2
  assert content['warnings'] == [HOSTILE]
  assert list(content['files']['before']) == [HOSTILE]
  assert sorted(p.name for p in folder.iterdir()) == [
      'compare.html', 'rotation.json', 'rotation.npz']


def test_the_map_shows_degrees_and_means_over_experts(folder):
  _, content = written(folder)
  found = content['figures']['heatmap']['comparisons'][0]
  assert (found['layers'], found['modules']) == (
      list(range(LAYERS)), list(MODULES))
  angle = found['grids']['angle']
  assert angle['measured'][2] == pytest.approx(
      [math.degrees(2.1), math.degrees(2.2)])
  assert angle['excess'][0][0] == pytest.approx(0)
  assert found['grids']['values']['excess'][1] == pytest.approx([1.0, 1.0])
  assert 'means over experts' in content['figures']['heatmap']['note']


def test_what_is_undefined_is_left_out_of_a_mean():
  rows = [row(0, 'w', e) | {'value_shift': v} for e, v in (
      (0, .25), (1, None), (2, .75))]
  assert comparison.cells(rows)[0]['value_shift'] == .5
  assert comparison.cells(rows[:1])[0] == rows[0]


def test_curves_are_those_of_the_row(folder):
  _, content = written(folder)
  matrices = content['figures']['spectra']['matrices']
  assert len(matrices) == 3 * LAYERS
  one, = [m for m in matrices if (m['layer'], m['expert']) == (3, 1)]
  with np.load(folder / 'rotation.npz') as arrays:
    line = one['lines']['values_before']
    np.testing.assert_allclose(
        line['y'], arrays['experts.w1/values_before'][7], rtol=1e-3)
    assert line['at'] == list(range(1, RANK + 1))
    np.testing.assert_allclose(one['lines']['cosine']['y'], np.degrees(
        np.arccos(arrays['experts.w1/cosine'][7])), rtol=1e-3)


def test_filled_up_curves_end_where_the_matrix_does(folder):
  with np.load(folder / 'rotation.npz') as arrays:
    kept = dict(arrays)
  for name, array in kept.items():
    if name.startswith('q_proj'):
      array[0, 25:] = np.nan
  np.savez(folder / 'rotation.npz', **kept)
  _, content = written(folder)
  first = content['figures']['spectra']['matrices'][0]['lines']
  assert {len(line['y']) for line in first.values()} == {25}


def test_energy_is_shared_out(folder):
  _, content = written(folder)
  figure = content['figures']['energy']
  assert figure['bars'][0]['shares'] == pytest.approx([.1, .7, .2])
  assert figure['lines'][1]['points'][4] == pytest.approx({'x': 4, 'y': .1})


def test_the_table_has_every_column_and_row(folder):
  _, content = written(folder)
  table = content['figures']['table']
  assert table['columns'][:3] == ['layer', 'module', 'expert']
  assert 'exceeds_null' in table['columns'] and 'tensor' not in table['columns']
  assert len(table['rows']) == 3 * LAYERS
  assert all(len(r) == len(table['columns']) for r in table['rows'])


@pytest.mark.parametrize('size, most', [(10, 16), (3584, 160), (500, 16)])
def test_thinning_keeps_both_ends(size, most):
  at = comparison.thinned(size, most)
  assert at[0] == 0 and at[-1] == size - 1 and len(at) <= most + 16
  assert (np.diff(at) > 0).all()
