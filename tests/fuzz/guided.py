"""The same targets, with inputs guided by coverage, where atheris is there.

  python -m tests.fuzz.guided NAME INPUTS SEED FOLDER
"""
import importlib.util
import pathlib
import subprocess
import sys
import tempfile


def present() -> bool:
  """Whether atheris is installed; nothing here needs it."""
  return importlib.util.find_spec('atheris') is not None


def run(name: str, inputs: int, seed: int) -> bool:
  """Whether every answer was as it may be; True without atheris."""
  if not present():
    return True
  with tempfile.TemporaryDirectory(prefix='fuzz-') as folder:
    done = subprocess.run(
        [sys.executable, '-m', 'tests.fuzz.guided', name, str(inputs),
         str(seed), folder], capture_output=True, text=True, errors='replace',
        check=False)
  lines = (done.stdout + done.stderr).splitlines()
  said = [line for line in lines if line.startswith(('Done', '#'))][-2:]
  print(f'{name:11} guided: {" / ".join(said)}', flush=True)
  if done.returncode:
    print('\n'.join(lines[-60:]), file=sys.stderr)
  return done.returncode == 0


def main(name: str, inputs: str, seed: str, folder: str) -> None:
  """Ends the process itself, as atheris does."""
  import atheris

  with atheris.instrument_imports(include=['rlft']):
    from tests.fuzz import mutation, running, targets

  place = pathlib.Path(folder)
  corpus, work = place / 'corpus', place / 'work'
  for made in (corpus, work):
    made.mkdir()
  for i, text in enumerate(mutation.seeds(name)):
    (corpus / str(i)).write_bytes(text.encode('utf-8', 'surrogatepass'))
  call = targets.TARGETS[name](work)

  def once(data):
    text = data.decode('utf-8', 'surrogateescape')
    try:
      running.attempt(call, text)
    except running.Failed:
      print(f'{name}: {text[:2000]!r}\nis kept in '
            f'{running.leave(name, text)}', file=sys.stderr)
      raise

  atheris.Setup([sys.argv[0], f'-runs={inputs}', f'-seed={int(seed) + 1}',
                 '-timeout=10', '-max_len=4096', '-print_final_stats=0',
                 f'-artifact_prefix={folder}/', str(corpus)], once)
  atheris.Fuzz()


if __name__ == '__main__':
  main(*sys.argv[1:])
