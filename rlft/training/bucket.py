"""The file system behind gs://, as `etils.epath` finds it.

gcsfs tries six times, over half a minute, what may pass: a connection that
breaks, 408, 429 and 500 to 504. What is then left it raises as it comes, of a
dozen classes; here it is one, an OSError of one line. Listings are not kept:
Orbax and other processes write there, too.
"""
import errno

import fsspec
import gcsfs
from gcsfs import retry
from google.cloud import storage

from rlft import records

BEYOND = 416  # a read past the end, which gcsfs knows what to do about


class Refused(OSError):
  """What a bucket would not do, in its own words."""

  def __str__(self):
    return self.strerror


class Bucket(gcsfs.GCSFileSystem):
  """gcsfs whose failures are OSErrors, and which remembers no listing."""

  def __init__(self, *args, **kwargs):
    super().__init__(*args, **{'use_listings_cache': False, **kwargs})

  async def _request(self, *args, **kwargs):
    try:
      return await super()._request(*args, **kwargs)
    except (FileNotFoundError, FileExistsError):
      raise
    except Exception as error:
      if isinstance(error, retry.HttpError) and error.code in (
          BEYOND, str(BEYOND)):
        raise
      line = ' '.join(str(error).split()) or type(error).__name__
      raise Refused(errno.EIO, line[:300]) from error

  async def _isdir(self, path):
    try:
      return (await self._info(path))['type'] == 'directory'
    except FileNotFoundError:  # gcsfs takes any failure for a no
      return False


def ask(name: str) -> None:
  """Refused unless the bucket itself may be asked for, storage.buckets.get.

  Orbax does so, by google-cloud-storage, before it lists steps: a run could
  begin without that right, but never go on.
  """
  try:
    storage.Client().get_bucket(name)
  except Exception as error:
    line = ' '.join(str(error).split()) or type(error).__name__
    raise Refused(errno.EIO, f'storage.buckets.get: {line[:300]}') from error


def install() -> None:
  """Makes gs:// paths of this process use it, and be told in one line."""
  for protocol in ('gcs', 'gs'):
    fsspec.register_implementation(protocol, Bucket, clobber=True)
  records.hush()
