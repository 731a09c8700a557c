"""Nothing runs what it reads, and nothing writes down what is secret."""
import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# what makes objects or programs of bytes; the door alone runs a config file
MODULES = ('pickle', 'cPickle', '_pickle', 'dill', 'cloudpickle', 'joblib',
           'marshal', 'shelve', 'yaml', 'torch', 'code', 'runpy')
CALLS = ('eval', 'exec', 'compile', '__import__', 'execfile')
METHODS = ('exec_module', 'read_pickle', 'to_pickle', 'system', 'popen')
ALLOWED = {('rlft/config.py', 'exec_module')}

SECRETS = {'HF_TOKEN': 'hf_' + 'Qz7' * 11, 'WANDB_API_KEY': 'c0ffee' * 7,
           'AWS_SECRET_ACCESS_KEY': 'Xk9/' * 10}
RUN = '''
import sys
from rlft import main
file, folder = sys.argv[1:]
for config, code in ((f'{file}:damaged', 2), (file, 0)):
  words = ['run', f'--config={config}', f'--run_dir={folder}/{code}']
  assert main.main(words) == code
'''
CONFIG = '''
import tests.tiny

def get_config(variant=''):
  config = tests.tiny.sft_config(1)
  config.evaluate.every = config.checkpoint.every = 1
  del config.evals['ood']
  if variant == 'damaged':
    raise OSError('what a config file says')
  return config
'''


def uses(source: str, file: str = '') -> list[str]:
  """Whatever of a file could run what it reads."""
  found = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      found += [x.name for x in node.names
                if x.name.partition('.')[0] in MODULES]
    elif isinstance(node, ast.ImportFrom):
      found += [x for x in [(node.module or '').partition('.')[0]]
                if x in MODULES]
    elif isinstance(node, ast.Name) and node.id in CALLS:
      found.append(node.id)
    elif isinstance(node, ast.Attribute) and node.attr in METHODS:
      found.append(node.attr)
    elif isinstance(node, ast.keyword) and _switches_on(node):
      found.append(node.arg)
  return [x for x in found if (file, x) not in ALLOWED]


def _switches_on(node: ast.keyword) -> bool:
  """allow_pickle, trust_remote_code or shell, other than as a plain False."""
  off = isinstance(node.value, ast.Constant) and node.value.value is False
  return node.arg in ('allow_pickle', 'trust_remote_code', 'shell') and not off


@pytest.mark.parametrize('folder', ['rlft', 'configs', 'launch'])
def test_nothing_runs_what_it_reads(folder):
  seen = 0
  for path in sorted((ROOT / folder).rglob('*.py')):
    file = path.relative_to(ROOT).as_posix()
    assert not uses(path.read_text(), file), file
    seen += 1
  assert seen


def test_arrays_are_loaded_without_pickle_by_name():
  """numpy's own default has changed once."""
  for path in (ROOT / 'rlft').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and ast.unparse(node.func) in (
          'np.load', 'numpy.load'):
        assert 'allow_pickle' in [k.arg for k in node.keywords], path


@pytest.mark.parametrize('source', [
    'import pickle', 'from pickle import loads', 'import torch.nn',
    'import dill as json', 'def f():\n  import marshal', 'eval(x)', 'exec(x)',
    'f = eval', 'compile(x, "", "exec")', '__import__(x)',
    'np.load(x, allow_pickle=True)', 'np.load(x, allow_pickle=y)',
    'os.system(x)', 'os.popen(x)', 'subprocess.run(x, shell=True)',
    'spec.loader.exec_module(m)', 'pd.read_pickle(x)',
    'from_pretrained(x, trust_remote_code=True)'])
def test_a_way_to_run_what_is_read_is_seen(source):
  assert uses(source)


@pytest.mark.parametrize('source', [
    'ast.literal_eval(x)', 'np.load(x, allow_pickle=False)', 're.compile(x)',
    'jitted.lower(x).compile()', 'evaluate.run(x)', 'import json'])
def test_what_runs_nothing_is_not(source):
  assert not uses(source)


def leaks(folder: pathlib.Path, secrets) -> list[str]:
  """Files in which, or in whose name, a secret stands."""
  found = []
  for path in folder.rglob('*'):
    data = path.read_bytes() if path.is_file() else b''
    data += str(path).encode()
    found += [f'{path}: {k}' for k, v in secrets.items()
              if v.encode() in data or v[4:-4].encode() in data]
  return found


@pytest.mark.slow
def test_no_file_of_a_run_has_a_secret_of_its_surroundings(tmp_path):
  """Nor what is printed, also where it goes wrong."""
  file, runs = tmp_path / 'toy.py', tmp_path / 'runs'
  file.write_text(CONFIG)
  environment = {
      **os.environ, **SECRETS, 'RLFT_TRACEBACK': '', 'JAX_PLATFORMS': 'cpu',
      'PYTHONPATH': str(ROOT)}
  done = subprocess.run(
      [sys.executable, '-c', RUN, str(file), str(runs)],
      capture_output=True, text=True, check=False, env=environment)
  assert done.returncode == 0, done.stderr
  for secret in SECRETS.values():
    assert secret not in done.stdout + done.stderr
  assert 'what a config file says' in done.stderr
  assert (runs / '0' / 'checkpoints').is_dir()
  assert (runs / '0' / 'metrics.jsonl').is_file()
  assert len(list(runs.rglob('*'))) > 20
  assert not leaks(runs, SECRETS)


def test_a_secret_in_a_file_is_seen(tmp_path):
  (tmp_path / 'deep').mkdir()
  (tmp_path / 'deep' / 'a.bin').write_bytes(
      b'\0x' + SECRETS['HF_TOKEN'].encode() + b'\xff')
  (tmp_path / SECRETS['WANDB_API_KEY']).touch()
  assert len(leaks(tmp_path, SECRETS)) == 2
