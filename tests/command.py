"""The command, as a test calls it."""
from rlft import main


def refused(argv, capfd):
  """The one line on standard error of a command that declines."""
  capfd.readouterr()
  assert main.main(argv) == 2
  said = capfd.readouterr()
  assert said.out == ''
  assert said.err.startswith('rlft: ') and said.err.count('\n') == 1
  return said.err
