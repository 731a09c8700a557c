"""The architecture: who may import whom, and how long a file may be."""
import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1] / 'rlft'

# Top to bottom: a module imports from its own line or from a lower one.
LAYERS = (
    ('main', 'api'),
    ('study', 'report'),
    ('train', 'arms', 'binding', 'evaluate', 'analyze', 'observe', 'comparison',
     'healing', 'check', 'config', 'differences', 'directory', 'exchange',
     'inherit', 'matchings', 'planning', 'spent', 'startup', 'distances'),
    ('analyses',),
    ('weights', 'checkpoints', 'hf'),
    ('training', 'experience', 'rows'),
    ('objectives',),
    ('policy', 'episodes', 'outcomes', 'health', 'verifiers',
     'worker', 'spelled'),
    ('models', 'adapters', 'envs', 'rewards', 'curricula', 'decoding',
     'optimizers', 'transforms'),
    ('ops', 'spectral', 'parts', 'presets', 'tokenizer', 'chat', 'arguments',
     'records'),
    ('types', 'pulse', 'paths', 'usage', 'ledger'),
)
LEVEL = {name: -i for i, line in enumerate(LAYERS) for name in line}
LEAVES = LAYERS[8]
MACHINERY = ('ops', 'spectral', 'training')
PARTS = (*LEAVES, 'objectives', 'experience', 'analyses', 'parts')
DRAWERS = ('utils', 'util', 'lib', 'common', 'helpers', 'misc')

FILE_LINES = 300
OBJECTIVE_LINES = 80
FUNCTION_LINES = 80


def dotted(path: pathlib.Path, root: pathlib.Path) -> str:
  """`rlft/ops/kl.py` -> `ops.kl`; the package itself is its folder."""
  parts = path.relative_to(root).with_suffix('').parts
  return '.'.join(p for p in parts if p != '__init__')


def parsed(root: pathlib.Path) -> dict[str, ast.Module]:
  return {dotted(p, root): ast.parse(p.read_text())
          for p in sorted(root.rglob('*.py'))}


def imports(tree: ast.Module, known: set[str]) -> set[str]:
  """The modules of rlft that a file imports, without the leading `rlft.`."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      # A relative import becomes a name without a layer.
      origin = 'rlft.<relative>' if node.level else node.module
      found |= {f'{origin}.{alias.name}' for alias in node.names}
  inside = {name.removeprefix('rlft.') for name in found
            if name.startswith('rlft.')}
  # `from rlft.types import Batch` names a class: cut back to the module.
  return {name if name in known else name.rpartition('.')[0] or name
          for name in inside}


def breaches(root: pathlib.Path) -> list[str]:
  """Every rule of the architecture that a file breaks, one line each."""
  trees = parsed(root)
  broken, graph = [], {}
  for module, tree in trees.items():
    top = module.partition('.')[0]
    if not top:
      continue
    if top not in LEVEL:
      broken.append(f'{module}: not in LAYERS; give it a layer')
      continue
    graph[module] = imports(tree, set(trees))
    for target in sorted(graph[module]):
      to = target.partition('.')[0]
      if to not in LEVEL:
        broken.append(f'{module} imports {target}: relative or unknown')
      elif LEVEL[to] > LEVEL[top]:
        broken.append(f'{module} imports {target}: an upward arrow')
      elif top in LEAVES and to in LEAVES and target != top:
        broken.append(f'{module} imports {target}: leaves know no leaf')
      elif {top, to} == {'training', 'experience'}:
        broken.append(f'{module} imports {target}: siblings')
      elif top in MACHINERY and to in PARTS:
        broken.append(f'{module} imports {target}: machinery knows no part')
    if module != 'parts' and 'import_module' in ast.dump(tree):
      broken.append(f'{module} imports by name: only parts.py does')
  try:
    graphlib.TopologicalSorter(graph).prepare()
  except graphlib.CycleError as error:
    broken.append(f'import cycle: {" <- ".join(error.args[1])}')
  return broken


def excesses(root: pathlib.Path) -> list[str]:
  """Every file or function over its limit, one line each."""
  over = []
  for path in sorted(root.rglob('*.py')):
    text, name = path.read_text(), path.relative_to(root).as_posix()
    limit = FILE_LINES
    if path.parent == root / 'objectives':
      limit = OBJECTIVE_LINES
    if len(text.splitlines()) > limit:
      over.append(f'{name}: {len(text.splitlines())} lines, limit {limit}')
    for node in ast.walk(ast.parse(text)):
      if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        length = node.end_lineno - node.lineno + 1
        if length > FUNCTION_LINES:
          over.append(f'{name}: {node.name}() has {length} lines')
    if path.stem in DRAWERS:
      over.append(f'{name}: a drawer; name the idea')
  return over


def test_imports_point_downwards():
  assert not breaches(ROOT)


def test_files_and_functions_are_short():
  assert not excesses(ROOT)


def test_every_layer_is_a_name_once():
  names = [name for line in LAYERS for name in line]
  assert len(names) == len(set(names))


@pytest.mark.parametrize('path, source, complaint', [
    ('ops/a.py', 'from rlft.models import b', 'upward'),
    ('ops/a.py', 'def f():\n  import rlft.models.b', 'upward'),
    ('types.py', 'from rlft.ops import masked', 'upward'),
    ('envs/a.py', 'from rlft.models import b', 'no leaf'),
    ('envs/a.py', 'from rlft.envs import b', 'no leaf'),
    ('envs/__init__.py', 'from rlft.models import b', 'no leaf'),
    ('training/a.py', 'from rlft.experience import b', 'siblings'),
    ('experience/a.py', 'from rlft.training.b import c', 'siblings'),
    ('training/a.py', 'from rlft.objectives import ppo', 'no part'),
    ('training/a.py', 'from rlft import parts', 'no part'),
    ('training/a.py', 'from . import b', 'relative'),
    ('training/a.py', 'from importlib import import_module', 'by name'),
    ('stray.py', 'import os', 'give it a layer'),
])
def test_a_breach_is_seen(tmp_path, path, source, complaint):
  for folder in ('models/b', 'envs/b', 'experience/b', 'training/b'):
    (tmp_path / folder).parent.mkdir(exist_ok=True)
    (tmp_path / f'{folder}.py').touch()
  assert not breaches(tmp_path)
  (tmp_path / path).parent.mkdir(exist_ok=True)
  (tmp_path / path).write_text(source)
  assert complaint in ''.join(breaches(tmp_path))


def test_a_cycle_is_seen(tmp_path):
  (tmp_path / 'ops').mkdir()
  (tmp_path / 'ops/a.py').write_text('from rlft.ops import b')
  (tmp_path / 'ops/b.py').write_text('from rlft.ops import a')
  assert 'cycle' in ''.join(breaches(tmp_path))


def test_what_the_rules_allow(tmp_path):
  for name in ('objectives', 'ops', 'rewards', 'training'):
    (tmp_path / name).mkdir()
  (tmp_path / 'ops/masked.py').touch()
  (tmp_path / 'types.py').write_text('import typing')
  (tmp_path / 'rewards/kl.py').write_text('from rlft.ops import masked')
  (tmp_path / 'objectives/ppo.py').write_text(
      'from rlft.rewards import kl\nfrom rlft.types import Batch')
  (tmp_path / 'objectives/grpo.py').write_text(
      'from rlft.objectives import ppo')
  (tmp_path / 'training/steps.py').write_text(
      'from rlft import policy\nfrom rlft.ops.masked import mean')
  assert not breaches(tmp_path)


@pytest.mark.parametrize('path, source, complaint', [
    ('ops/a.py', '\n' * 301, '301 lines'),
    ('objectives/a.py', '\n' * 81, '81 lines'),
    ('ops/a.py', 'def f():\n' + '  x = 1\n' * 80, 'f() has 81 lines'),
    ('ops/utils.py', '', 'drawer'),
])
def test_an_excess_is_seen(tmp_path, path, source, complaint):
  (tmp_path / path).parent.mkdir()
  (tmp_path / path).write_text(source)
  assert complaint in ''.join(excesses(tmp_path))
