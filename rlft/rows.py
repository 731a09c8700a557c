"""How many rows a run has at once, and whether they split as it asks."""
import ml_collections

from rlft import parts
from rlft.ops import branches, sharding


def of(section: ml_collections.ConfigDict) -> int:
  """Of a batch: rows, or prompts x group. `section` is `experience`."""
  return section.get('rows') or (
      section.get('prompts', 0) * section.get('group', 1))


def shared(section: ml_collections.ConfigDict) -> dict[str, int]:
  """Columns of prompt that are computed once, and for how many rows."""
  prompt = section.get('prompt_length', 0)
  return dict(prompt=prompt, group=section.get('group', 1) if prompt else 1)


def split(config: ml_collections.ConfigDict, devices: int) -> None:
  """Over so many devices, by the mesh of the config; into minibatches.

  An analysis has no rows, only a mesh. ValueError says what does not split.
  """
  sizes = parts.fill(sharding.sizes, 'config.mesh', count=devices,
                     **config.get('mesh', {}))()
  if 'objective' not in config:
    return
  section, count = config.experience, of(config.experience)
  minibatches, microbatches = (
      config.passes.get(k, 1) for k in ('minibatches', 'microbatches'))
  if count % minibatches:
    raise ValueError(f'{count} rows of experience do not split into '
                     f'{minibatches} minibatches')
  small = count // minibatches
  if small % microbatches:
    raise ValueError(
        f'{small} rows do not split into {microbatches} microbatches')
  least = small // microbatches
  group = shared(section)['group']
  branches.split(count, minibatches * microbatches, group)
  for number, what in (
      (count, 'a batch'), (small, 'a minibatch'), (least, 'a microbatch'),
      (least // group, 'a microbatch, one for each group,'),
      (section.get('sample_rows', 0), 'experience.sample_rows'),
      (section.get('slots', 0), 'experience.slots')):
    sharding.split(number, what, sizes['data'] * sizes['fsdp'])
