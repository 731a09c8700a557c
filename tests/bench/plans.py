"""What published sizes take on slices of TPUs: writes docs/plans.md.

  python -m tests.bench.plans [--only=qwen2.5-7b,sft,v5e] [--kept=true]

Every row is compiled by the compiler of that TPU, in a process of its own; none
is run. Needs `pip install "jax[tpu]"` and no TPU. Rows that were made before
are kept in docs/plans (--rows) and not made again; with --kept only they are
shown. The page is --out.
"""
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
SIZES = ('qwen2.5-7b', 'llama-3.2-11b-vision')
SLICES = ('v5e:16x16', 'v5p:4x4x4', 'v6e:8x8')
GROWTH = ('v5p:2x2x4', 'v5p:4x4x4', 'v5p:4x8x8')  # 16, 64, 256 chips
ALIKE = ('--config.mesh.fsdp=16',)  # one layout for all of these
PROGRAMS = {'sft': 'sft', 'ppo': 'ppo,score,sample,spectral'}
GIB = 2**30
HEAD = """# What published sizes take on slices of TPUs

Compiled by each TPU's own compiler ({compiler}), where there is none, {when}.
All parameters trained, in float32 with both of Adam's moments; products in
bfloat16; blocks made again in the backward pass. SFT: 256 rows of 2,048 tokens.
PPO: 256 rollouts of up to 1,024 tokens, 512 of them new, with a critic of the
policy's size and a reference. HBM is what a chip holds while the program runs,
other parts of the run included. "Again" are operations made a second time.
Seconds are predicted from a roofline with assumed shares of a chip's numbers
({shares}); nothing has been run.
Compiled: CPU seconds, and beside them those of a clock on two cores, which most
rows shared with other work; one that has them to itself takes 0.6 of the first.
Made by `python -m tests.bench.plans`; the rows of SFT by
`{command}`, those of PPO with `SIZE,ppo`.
"""


def command(size: str, kind: str, at: str, out: str = 'FILE',
            more: tuple[str, ...] = ()) -> list[str]:
  """The words that make the rows of a run."""
  return ['plan', f'--config=configs/scale.py:{size},{kind}', *more,
          f'--topology={at}', f'--programs={PROGRAMS[kind]}', f'--out={out}']


def rows(size: str, kind: str, at: str, options: dict,
         more: tuple[str, ...] = ()) -> list[dict]:
  """Compiled, or as they were kept."""
  folder = pathlib.Path(options.get('rows', ROOT / 'docs' / 'plans'))
  folder.mkdir(parents=True, exist_ok=True)
  mark = ''.join('-' + word.split('.')[-1] for word in more)
  path = folder / f'{size}-{kind}-{at.replace(":", "-")}{mark}.json'
  if 'kept' in options and not path.exists():
    return []
  if not path.exists():
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-m', 'rlft.main',
         *command(size, kind, at, path, more)], cwd=ROOT, text=True,
        capture_output=True, check=False)
    print(f'{path.name}: exit {done.returncode}, '
          f'{time.monotonic() - began:.0f} s', flush=True)
    if not path.exists():
      raise RuntimeError(done.stderr[-2000:])
  return json.loads(path.read_text())['programs']


def line(name: str, at: str, row: dict) -> str:
  """A row of the table."""
  if 'flops' not in row:
    return (f'| {name} | {row["name"]} | {at} | '
            f'{row["hbm_bytes"] / GIB:.1f} of {row["hbm_limit"] / GIB:.0f} '
            '**does not fit** |' + ' |' * 6)
  again = row['flops'] - row['model_flops'] if row['name'] in PROGRAMS else 0
  spent = row.get('compile_cpu_seconds')
  busy = f'{spent:.0f}' if spent else 'not counted'
  free = 1 - row['hbm_bytes'] / row['hbm_limit']
  sent = ', '.join(f'{kind} {x["bytes"] / 1e9:.1f}'
                   for kind, x in row['sent'].items() if x['bytes'] > 5e7)
  return (
      f'| {name} | {row["name"]} | {at} | {row["hbm_bytes"] / GIB:.1f} of '
      f'{row["hbm_limit"] / GIB:.0f} ({free:.0%} free) | '
      f'{(row["flops"] - again) / 1e12:.1f} | {again / 1e12:.1f} | '
      f'{row["sent_bytes"] / 1e9:.1f} ({sent or "next to nothing"}) | '
      f'{predicted(row)} | {busy} ({row["compile_seconds"]:.0f}) |')


def predicted(row: dict) -> str:
  """Traffic of memory and what follows from the roofline, where it was made."""
  if 'seconds' not in row:
    return 'not counted | not predicted'
  return (f'{row["bytes"] / 1e9:.0f} | {row["seconds"]:.2f} '
          f'({row["bound_by"]}, MFU {row["mfu"]:.0%})')


def table(found: list[str]) -> str:
  """With its head."""
  return '\n'.join([
      '| model | program | slice | HBM a chip, GiB | model TFLOP | again | '
      'sent GB a chip (by kind) | memory GB | predicted s | '
      'compiled: CPU s (wall) |',
      '|---|---|---|---|---|---|---|---|---|---|', *found])


def main(words: list[str]) -> None:
  """Makes what is missing and writes the page."""
  import jax

  from rlft import planning
  options = dict(word[2:].split('=', 1) for word in words)
  only = options.get('only', '').split(',') if 'only' in options else []
  wanted = lambda *names: all(any(o in n for n in names) for o in only)
  main_rows = [
      line(size, at, row) for kind in PROGRAMS for size in SIZES
      for at in SLICES if wanted(size, kind, at)
      for row in rows(size, kind, at, options)]
  growth = [
      line(SIZES[0], at, row) for at in GROWTH if wanted(SIZES[0], 'sft', at)
      for row in rows(SIZES[0], 'sft', at, options, ALIKE)]
  page = HEAD.format(
      compiler=f'libtpu beside jax {jax.__version__}',
      when=time.strftime('%Y-%m-%d'), command=' '.join(
          ['rlft', *command('SIZE', 'sft', 'SLICE')[:-2], '--out=FILE']),
      shares=', '.join(f'{k} {v}' for k, v in planning.EFFICIENCY.items()))
  page += (f'\n{table(main_rows)}\n\n## From 16 to 256 chips\n\n'
           f'Each with `{ALIKE[0]}`: parameters are cut over 16 chips, rows '
           'over all.\n\n'
           f'{table(growth)}\n')
  out = pathlib.Path(options.get('out', ROOT / 'docs' / 'plans.md'))
  out.write_text(page)


if __name__ == '__main__':
  main(sys.argv[1:])
