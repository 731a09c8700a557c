"""The tour runs from first cell to last, in its smoke variant."""
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[2]


def test_the_tour_runs(tmp_path, monkeypatch):
  monkeypatch.setenv('RLFT_VARIANT', 'smoke')
  monkeypatch.setenv('RLFT_RUNS', str(tmp_path / 'tour'))
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  tour = nbformat.read(ROOT / 'notebooks' / 'tour.ipynb', as_version=4)
  nbclient.NotebookClient(
      tour, timeout=600, kernel_name='python3',
      resources={'metadata': {'path': str(ROOT / 'notebooks')}}).execute()
  assert (tmp_path / 'tour' / 'report.html').stat().st_size > 10_000
  figures = [
      output for cell in tour.cells for output in cell.get('outputs', ())
      if 'image/png' in output.get('data', {})]
  assert len(figures) == 4
