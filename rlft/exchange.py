"""Models from Hugging Face directories, and back.

What is imported is a run directory with one step, from which runs start; what
is exported has the files, tensors, dtypes and shards of the directory that the
run goes back to, so that it is read as that one is.
"""
import pathlib
from typing import Any

from rlft import config as door
from rlft import tokenizer, weights
from rlft.checkpoints import rewrite
from rlft.hf import architecture, kept, reading, writing
from rlft.ops import trees
from rlft.training import checkpoint


def take(source: str | pathlib.Path, out: str | pathlib.Path) -> dict[str, Any]:
  """`rlft import`: a run directory with the parameters of a directory.

  Returns its name, step, family and number of parameters. ValueError, nothing
  being written, for whatever is not understood; see `hf.names.plan`.
  """
  source, out = pathlib.Path(source), pathlib.Path(out)
  name = weights.HF + str(source)
  about = weights.config_of(name)
  tokenizer.load(about['tokenizer'])  # before anything long
  with rewrite.whole(out) as folder:
    like = reading.shapes(source)
    shapes = {path: x.shape for path, x in trees.named(like).items()}
    found, where = reading.plan(source, shapes)
    kept.keep(found, where.others, folder / architecture.KEPT)
    params = reading.params(source, like)
    checkpoint.save_params(folder, 0, {'policy': params})
    config = door.skeleton()
    config.update(about)
    config.init = name
    config.tokenizer = f'{weights.HF}{out / architecture.KEPT}'
    (folder / 'config.json').write_text(door.to_json(config))
  return {'checkpoint': f'{out}@0', 'parameters': sum(
      x.size for x in trees.named(like).values())}


def give(
    name: str, out: str | pathlib.Path, *, like: str | None = None,
) -> dict[str, Any]:
  """`rlft export`: a directory with the policy of RUN_DIR@STEP.

  Laid out as the directory that the run goes back to, or as `like`. Returns
  that directory and the number of tensors written anew.
  """
  out = pathlib.Path(out)
  rewrite.refuse(out)
  layout = pathlib.Path(like) if like else weights.origin(name)
  policy = weights.load(name)['policy']
  with rewrite.whole(out) as folder:
    count = writing.write(policy, layout, folder)
  return {'out': str(out), 'like': str(layout), 'tensors': count}
