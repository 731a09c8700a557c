"""Event files of TensorBoard, written by whoever calls.

The writer of tensorboardX is a thread with a queue: on a full disk the thread
dies, and the run waits for it for ever once the queue is full.
"""
import socket
import struct
import time
from collections.abc import Mapping

from tensorboardX import record_writer, summary
from tensorboardX.proto import event_pb2

from rlft.training import store

VERSION = 'brain.Event:2'


def name(folder: store.Where) -> store.Where:
  """A name for a new file; TensorBoard reads a folder's in their order."""
  return folder / (
      f'events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}')


def begin(path: store.Where, step: int) -> None:
  """Makes the file; of earlier files, what is from `step` on is void."""
  start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
  _append(path, [
      event_pb2.Event(file_version=VERSION),
      event_pb2.Event(file_version=VERSION, step=step),
      event_pb2.Event(session_log=start, step=step)])


def add(path: store.Where, step: int, scalars: Mapping[str, float]) -> None:
  """Numbers of a step."""
  _append(path, [
      event_pb2.Event(summary=summary.scalar(tag, value), step=step)
      for tag, value in scalars.items()])


def _append(path: store.Where, events: list[event_pb2.Event]) -> None:
  now = time.time()
  for event in events:
    event.wall_time = now
  store.append(
      path, b''.join(_record(e.SerializeToString()) for e in events))


def _record(data: bytes) -> bytes:
  """A TFRecord: length, data, and a sum of each."""
  sum_of = lambda x: struct.pack('<I', record_writer.masked_crc32c(x))
  length = struct.pack('<Q', len(data))
  return length + sum_of(length) + data + sum_of(data)
