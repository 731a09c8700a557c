"""A bucket in memory, behind the JSON API of Google Cloud Storage.

It has what an object store has and no more: put, get, list and delete of whole
objects, with preconditions. Whatever would copy, rename or compose objects is
answered 501. `Bucket.asked` has every request, and `fails` may answer one.
"""
import base64
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

OBJECT = re.compile(r'(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$')
LIST = re.compile(r'/storage/v1/b/([^/]+)/o$')
BUCKET = re.compile(r'/storage/v1/b/([^/]+)$')
UPLOAD = re.compile(r'(?:/resumable)?/upload/storage/v1/b/([^/]+)/o$')


class Asked(NamedTuple):
  """One request: get, list, put, delete, bucket or refused, and its object."""
  what: str
  name: str


class Bucket:
  """Objects of one bucket, and what was asked of it."""

  def __init__(self, name: str):
    self.name = name
    self.objects: dict[str, tuple[bytes, int]] = {}  # name -> data, generation
    self.asked: list[Asked] = []
    self.fails: Callable[[Asked], int | None] = lambda asked: None
    self.uploads: dict[str, tuple[str, bytearray, dict]] = {}
    self.lock, self.generation = threading.RLock(), 0
    self.url = ''

  def environment(self) -> dict[str, str]:
    """What gcsfs, google-cloud-storage and tensorstore read to come here."""
    return {
        'STORAGE_EMULATOR_HOST': self.url, 'FSSPEC_GCS_TOKEN': 'anon',
        'FSSPEC_GCS_PROJECT': 'none', 'GOOGLE_CLOUD_PROJECT': 'none',
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # asks elsewhere, by gRPC
        'TENSORSTORE_GCS_HTTP_URL': self.url,
        'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'none'}

  def read(self, name: str) -> bytes:
    """The bytes of an object; KeyError where there is none."""
    return self.objects[name][0]

  def names(self, prefix: str = '') -> list[str]:
    """Names of the objects below a prefix, in order."""
    return sorted(n for n in self.objects if n.startswith(prefix))

  def count(self, what: str) -> dict[str, int]:
    """Object -> how often that was asked of it."""
    names = [asked.name for asked in self.asked if asked.what == what]
    return {name: names.count(name) for name in dict.fromkeys(names)}

  def put(
      self, name: str, data: bytes, match: str | None = None) -> dict | None:
    """Puts an object whole; None where it is not at the generation `match`."""
    with self.lock:
      _, generation = self.objects.get(name, (b'', 0))
      if match is not None and int(match) != generation:
        return None
      self.generation += 1
      self.objects[name] = bytes(data), self.generation
      return self.about(name)

  def about(self, name: str) -> dict[str, Any]:
    """What the API says of an object."""
    data, generation = self.objects[name]
    digest = base64.b64encode(hashlib.md5(data).digest()).decode()
    return {
        'kind': 'storage#object', 'bucket': self.name, 'name': name,
        'size': str(len(data)), 'generation': str(generation),
        'metageneration': '1', 'md5Hash': digest, 'storageClass': 'STANDARD',
        'contentType': 'application/octet-stream',
        'timeCreated': '2026-01-01T00:00:00.000Z',
        'updated': '2026-01-01T00:00:00.000Z'}

  def listed(self, query: dict[str, str]) -> dict[str, Any]:
    """One page with everything: objects, and prefixes up to a delimiter."""
    prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
    items, prefixes = [], set()
    with self.lock:
      for name in self.names(prefix):
        head, found, _ = name[len(prefix):].partition(delimiter or '\0')
        if found:
          prefixes.add(f'{prefix}{head}{delimiter}')
        else:
          items.append(self.about(name))
    return {'kind': 'storage#objects', 'items': items,
            'prefixes': sorted(prefixes)}


class Handler(http.server.BaseHTTPRequestHandler):
  """Requests of the JSON API."""
  protocol_version = 'HTTP/1.1'
  wbufsize = 2**16  # head and body in one packet, or each waits 40 ms
  disable_nagle_algorithm = True
  bucket: Bucket

  def log_message(self, *args):
    """Says nothing."""

  def answer(self, status: int, data: bytes | dict = b'', **headers: str):
    if isinstance(data, dict):
      data = json.dumps(data).encode()
      headers['Content-Type'] = 'application/json'
    self.send_response(status)
    for key, value in headers.items():
      self.send_header(key.replace('_', '-'), value)
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def refuse(self, status: int):
    self.answer(status, {'error': {'code': status, 'message': f'no: {status}'}})

  def handle_any(self):
    url = urllib.parse.urlsplit(self.path)
    query = dict(urllib.parse.parse_qsl(url.query))
    body = self.body()
    for pattern, name in ((OBJECT, 'object'), (LIST, 'list'),
                          (BUCKET, 'bucket'), (UPLOAD, 'upload')):
      found = pattern.match(url.path)
      if found:
        words = [urllib.parse.unquote(word) for word in found.groups()]
        if words[0] != self.bucket.name:
          return self.refuse(404)
        method = f'{self.command.lower()}_{name}'
        if name == 'upload' and method != 'delete_upload':
          method = 'upload'
        return getattr(self, method, self.unknown)(*words[1:], query, body)
    return self.unknown()

  do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any

  def body(self) -> bytes:
    if self.headers.get('Transfer-Encoding', '') == 'chunked':
      parts = []
      while size := int(self.rfile.readline(), 16):
        parts.append(self.rfile.read(size))
        self.rfile.readline()
      self.rfile.readline()
      return b''.join(parts)
    return self.rfile.read(int(self.headers.get('Content-Length') or 0))

  def noted(self, what: str, name: str = '') -> bool:
    """Whether the request is to be answered as it should be."""
    asked = Asked(what, name)
    self.bucket.asked.append(asked)
    status = self.bucket.fails(asked)
    if status:
      self.refuse(status)
    return not status

  def unknown(self, *_):
    self.noted('refused', f'{self.command} {self.path}')
    self.refuse(501)

  def get_bucket(self, query, body):
    if self.noted('bucket'):
      self.answer(200, {'kind': 'storage#bucket', 'name': self.bucket.name})

  def get_list(self, query, body):
    if self.noted('list', query.get('prefix', '')):
      self.answer(200, self.bucket.listed(query))

  def get_object(self, name, query, body):
    if not self.noted('get', name):
      return None
    with self.bucket.lock:
      data, generation = self.bucket.objects.get(name, (b'', 0))
      about = self.bucket.about(name) if generation else {}
    if not generation:
      return self.refuse(404)
    if query.get('ifGenerationNotMatch') == str(generation):
      return self.answer(304)
    if query.get('alt') != 'media':
      return self.answer(200, about)
    headers = {'x_goog_generation': str(generation)}
    span = re.fullmatch(
        r'bytes=(\d*)-(\d*)', self.headers.get('Range', '').strip())
    if not span:
      return self.answer(200, data, **headers)
    size = len(data)
    start = int(span[1]) if span[1] else max(size - int(span[2]), 0)
    stop = min(int(span[2]) + 1, size) if span[1] and span[2] else size
    if start >= size:
      return self.answer(416, Content_Range=f'bytes */{size}')
    return self.answer(206, data[start:stop], **headers,
                       Content_Range=f'bytes {start}-{stop - 1}/{size}')

  def delete_object(self, name, query, body):
    if not self.noted('delete', name):
      return None
    with self.bucket.lock:
      generation = self.bucket.objects.get(name, (b'', 0))[1]
      match = query.get('ifGenerationMatch')
      if match is not None and int(match) != generation:
        return self.refuse(412)
      if not generation:
        return self.refuse(404)
      del self.bucket.objects[name]
    return self.answer(204)

  def upload(self, query, body):
    if 'upload_id' in query:
      return self.go_on(query['upload_id'], body)
    how, name = query.get('uploadType'), query.get('name', '')
    if how == 'multipart':
      mark = b'--' + re.search(
          'boundary="?([^";]+)', self.headers['Content-Type'])[1].encode()
      head, data = (
          re.split(rb'\r?\n\r?\n', part, maxsplit=1)[1]
          for part in body.split(mark)[1:3])
      name, body = json.loads(head)['name'], re.sub(rb'\r?\n\Z', b'', data)
    elif how == 'resumable':
      name = name or json.loads(body)['name']
    if not self.noted('begin' if how == 'resumable' else 'put', name):
      return None
    if how == 'resumable':
      key = str(len(self.bucket.uploads))
      self.bucket.uploads[key] = name, bytearray(), query
      return self.answer(200, Location=f'{self.bucket.url}'
                         f'{self.path.split("?")[0]}?upload_id={key}')
    return self.kept(name, body, query)

  def go_on(self, key, body):
    name, data, query = self.bucket.uploads[key]
    data.extend(body)
    if self.headers.get('Content-Range', '/*').endswith('/*'):
      return self.answer(308, Range=f'bytes=0-{len(data) - 1}')
    return self.noted('put', name) and self.kept(name, data, query)

  def kept(self, name, data, query):
    about = self.bucket.put(name, data, query.get('ifGenerationMatch'))
    return self.refuse(412) if about is None else self.answer(200, about)


@contextmanager
def served(name: str = 'bucket') -> Iterator[Bucket]:
  """A bucket that is reached at `.url` while the context is open."""
  bucket = Bucket(name)
  handler = type('Handler', (Handler,), {'bucket': bucket})
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    server.handle_error = lambda *_: None  # a client may hang up
    bucket.url = f'http://127.0.0.1:{server.server_port}'
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
      yield bucket
    finally:
      server.shutdown()
      thread.join()
