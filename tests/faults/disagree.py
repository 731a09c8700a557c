"""One of two processes; each field in turn is another in the second one."""
import jax

from rlft.training import multihost

FIELDS = dict(config='{}', code='abc', versions=['1'], mesh=2, processes=2,
              step=3, data=7, parameters='0123')

multihost.join()
multihost.agree(FIELDS)
for name in FIELDS:
  said = dict(FIELDS)
  if jax.process_index() == 1:
    said[name] = 'other'
  try:
    multihost.agree(said)
  except multihost.Disagreement as error:
    assert f'differ in {name}: [1]' in str(error), error
  else:
    raise AssertionError(f'nobody saw {name}')
told = multihost.told(lambda: {'of': jax.process_index()})
assert told == {'of': 0}, told
print('all fields were named')
