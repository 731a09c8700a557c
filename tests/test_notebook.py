"""A notebook runs from first cell to last; the tour: `make notebooks`."""
import json
from pathlib import Path

import ml_dtypes
import nbclient
import nbformat
import pytest

from tests import llama

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_comparison_runs(tmp_path, monkeypatch):
  before = llama.tensors()
  for name, tensors in (('BEFORE', before), ('AFTER', llama.moved(before))):
    folder = llama.write(tmp_path / name, tensors, dtype=ml_dtypes.bfloat16)
    monkeypatch.setenv(f'RLFT_{name}', str(folder))
  for name, value in (('SELECT', 'q_proj|o_proj'), ('DRAWS', '1'),
                      ('RUNS', str(tmp_path / 'runs'))):
    monkeypatch.setenv(f'RLFT_{name}', value)
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  book = nbformat.read(
      ROOT / 'notebooks' / 'compare_checkpoints.ipynb', as_version=4)
  nbclient.NotebookClient(
      book, timeout=300, kernel_name='python3',
      resources={'metadata': {'path': str(ROOT / 'notebooks')}}).execute()
  outputs = [output.get('data', {}) for cell in book.cells
             for output in cell.get('outputs', ())]
  assert sum('image/png' in data for data in outputs) == 2
  page, = [data['text/html'] for data in outputs if 'text/html' in data]
  assert 'iframe srcdoc=' in page and len(page) > 50_000
  healed = json.loads((tmp_path / 'runs/healed/heal.json').read_text())
  assert len(healed['tensors']) == 2


@pytest.mark.parametrize('name', ['tour', 'compare_checkpoints'])
def test_a_notebook_is_committed_without_outputs(name):
  book = nbformat.read(ROOT / 'notebooks' / f'{name}.ipynb', as_version=4)
  code = [c for c in book.cells if c.cell_type == 'code']
  assert code and not any(c.outputs or c.execution_count for c in code)
  assert not any(
      line.startswith(('def ', 'class '))
      for c in code for line in c.source.splitlines())
