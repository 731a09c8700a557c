"""From a study directory to summary.json and one self-contained page."""
import json
import os
import sys

from rlft.report import page, provenance, summary, tables
from rlft.training import store


def write(study_dir: str | os.PathLike) -> store.Where:
  """Writes summary.json and report.html into the study; the page's path.

  Each file is replaced whole, and neither before both are made. Stages that
  were not run are shown as such. What was wrong with the study's files is
  said on standard error too. ValueError if there is no such directory.
  """
  folder = store.where(study_dir)
  found = tables.read(folder)
  about = provenance.about(folder, found)
  numbers = summary.build(found, about)
  text = page.render(page.data(found, about, numbers))
  _replace(folder / 'summary.json',
           json.dumps(numbers, indent=2, allow_nan=False) + '\n')
  _replace(folder / 'report.html', text)
  for warning in numbers['warnings']:
    print(f'rlft: warning: {warning}', file=sys.stderr)
  return folder / 'report.html'


def _replace(path, text):
  # reports of two processes may be written at the same time
  store.replace(path, text.encode(), partial=f'.{path.name}.{os.getpid()}')
