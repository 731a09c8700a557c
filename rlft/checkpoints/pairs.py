"""Whether two checkpoints are of one model."""
from rlft.checkpoints.tensor import Checkpoint

HEADS = ('lm_head.weight', 'output.weight', 'embed_out.weight')


def same(before: Checkpoint, after: Checkpoint) -> None:
  """ValueError unless names, shapes and dtypes of all tensors are equal."""
  if before.kind != after.kind:
    words = {'directory': 'a directory of safetensors', 'run': 'a run'}
    raise ValueError(
        f'{before.name} is {words[before.kind]} and {after.name} '
        f'{words[after.kind]}: give two of one kind')
  _tied(before, after)
  a, b = before.tensors, after.tensors
  odd = sorted(a.keys() ^ b.keys())
  if odd:
    there, not_there = (
        (before, after) if odd[0] in a else (after, before))
    raise ValueError(
        f'the checkpoints are of different models: {odd[0]} is in '
        f'{there.name}, but not in {not_there.name} ({len(odd)} such)')
  for what in ('shape', 'dtype'):
    odd = [k for k in a if getattr(a[k], what) != getattr(b[k], what)]
    if odd:
      one, other = (getattr(x[odd[0]], what) for x in (a, b))
      raise ValueError(
          f'the checkpoints differ in {what}: {odd[0]} is {_word(one)} in '
          f'{before.name} and {_word(other)} in {after.name} ({len(odd)} such)'
          + ('; save both in one dtype' if what == 'dtype' else ''))


def _word(value) -> str:
  return str(list(value)) if isinstance(value, tuple) else str(value)


def _tied(before: Checkpoint, after: Checkpoint) -> None:
  """A head that one of them shares with its embeddings, the other not."""
  for one, other in ((before, after), (after, before)):
    only = one.tensors.keys() - other.tensors.keys()
    head = [k for k in only if k.endswith(HEADS)]
    if head and len(only) == 1:
      raise ValueError(
          f'{one.name} has a head of its own ({head[0]}), {other.name} ties '
          'it to the embeddings: save both with the same tie_word_embeddings')
