"""Which device works on which matrix, and what has to be sent there.

All of it is decided on the host from shapes and layouts, before any number is
seen. Costs are those of a full factorisation, max(M, N) min(M, N)^2, to which
every kernel here is proportional; matrices are dealt out in descending cost,
each to the device with the least to do (Graham 1969, SIAM J. Appl. Math. 17:
the longest device has at most 4/3 of the least possible).
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

Axes = tuple[str, ...]  # of the mesh, major first
SLACK = 2  # a device holds at most this many even shares of a bucket


class Stack(NamedTuple):
  """A parameter '*L M N': its name, and the mesh axes that cut each axis."""
  path: str
  shape: tuple[int, ...]
  dtype: str
  axes: tuple[Axes, ...]  # as many as there are axes


class Bucket(NamedTuple):
  """Matrices of one shape, dtype and layout: one program, one transfer."""
  stacks: tuple[Stack, ...]
  devices: tuple[int, ...]  # of every matrix, stack after stack

  @property
  def shape(self) -> tuple[int, int]:
    return self.stacks[0].shape[-2:]

  @property
  def inside(self) -> tuple[Axes, Axes]:
    """The mesh axes that cut the rows and the columns of a matrix."""
    return self.stacks[0].axes[-2:]

  @property
  def lead(self) -> Axes:
    """The mesh axes that cut the stacks between matrices."""
    return _lead(self.stacks[0])


class Moves(NamedTuple):
  """Who sends what where; D devices, A of them exchange, C slots each."""
  send: Int[np.ndarray, 'D A S']  # own rows, by receiver; padding repeats 0
  owner: Int[np.ndarray, 'D C']  # of a slot: which part of the stack it is in
  place: Int[np.ndarray, 'D C']  # and which of the S that its owner sent
  matrix: Int[np.ndarray, 'D C']  # and its number in the bucket
  count: Int[np.ndarray, 'D']  # slots in use; the rest is never looked at


def cost(m: int, n: int) -> float:
  """Of one M x N matrix, in products of a factorisation up to a constant."""
  return float(max(m, n)) * min(m, n)**2


def deal(
    costs: Sequence[float | int], kinds: Sequence[int], devices: int,
) -> list[int]:
  """The device of each matrix, the costliest dealt first.

  No device gets more than SLACK even shares of a kind: every device reserves
  as many places as the fullest one needs.
  """
  room = SLACK * -(-np.bincount(kinds) // devices)
  held = np.zeros((devices, len(room)), int)
  load, found = np.zeros(devices), np.zeros(len(costs), int)
  for i in np.argsort(-np.asarray(costs, float), kind='stable'):
    free = held[:, kinds[i]] < room[kinds[i]]
    found[i] = device = int(np.argmin(np.where(free, load, np.inf)))
    load[device] += costs[i]
    held[device, kinds[i]] += 1
  return found.tolist()


def pack(stacks: Sequence[Stack], devices: int) -> tuple[Bucket, ...]:
  """Buckets in descending cost of a matrix, each matrix with its device."""
  kinds: dict[tuple, list[Stack]] = {}
  for stack in stacks:
    key = stack.shape[-2:], stack.dtype, _lead(stack), stack.axes[-2:]
    kinds.setdefault(key, []).append(stack)
  groups = sorted(kinds.values(), key=lambda g: -cost(*g[0].shape[-2:]))
  counts = [sum(_depth(s) for s in group) for group in groups]
  found = iter(deal(
      [cost(*g[0].shape[-2:]) for g, n in zip(groups, counts, strict=True)
       for _ in range(n)],
      np.repeat(np.arange(len(groups)), counts).tolist(), devices))
  return tuple(
      Bucket(tuple(group), tuple(next(found) for _ in range(n)))
      for group, n in zip(groups, counts, strict=True))


def exchanged(bucket: Bucket, sizes: dict[str, int]) -> Axes:
  """The mesh axes along which matrices have to move, in the mesh's order."""
  cut = {*bucket.lead, *bucket.inside[0], *bucket.inside[1]}
  return tuple(axis for axis in sizes if axis in cut)


def moves(bucket: Bucket, sizes: dict[str, int]) -> Moves:
  """The tables of one bucket on a mesh of these axis sizes.

  Devices that differ only along other axes hold the same blocks; each of them
  gets its matrices from those with which it shares these other coordinates.
  """
  along = exchanged(bucket, sizes)
  others = tuple(axis for axis in sizes if axis not in along)
  group, member, part = (
      _coordinates(sizes, axes) for axes in (others, along, bucket.lead))
  rows, parts = _rows(bucket, sizes)
  devices = len(member)
  sent = [[[] for _ in range(member.max() + 1)] for _ in range(devices)]
  place = np.zeros(len(rows), int)
  for g, to in enumerate(bucket.devices):
    for source in np.flatnonzero((group == group[to]) & (part == parts[g])):
      place[g] = len(sent[source][member[to]])
      sent[source][member[to]].append(int(rows[g]))
  own = slots(bucket, devices)
  matrix = _padded(own)
  width = max(len(x) for table in sent for x in table)
  return Moves(
      send=np.stack([_padded(table, width) for table in sent]),
      owner=parts[matrix], place=place[matrix], matrix=matrix,
      count=np.array([len(x) for x in own]))


def slots(bucket: Bucket, devices: int) -> list[list[int]]:
  """The matrices of every device, in the order in which it works on them."""
  found = [[] for _ in range(devices)]
  for g, device in enumerate(bucket.devices):
    found[device].append(g)
  return found


def where(bucket: Bucket, devices: int) -> Int[np.ndarray, 'G']:
  """Matrix -> its row in results in the order of devices and their slots."""
  own = slots(bucket, devices)
  width = max(map(len, own))
  found = np.zeros(len(bucket.devices), int)
  for device, matrices in enumerate(own):
    found[matrices] = device * width + np.arange(len(matrices))
  return found


def _lead(stack: Stack) -> Axes:
  return tuple(axis for axes in stack.axes[:-2] for axis in axes)


def _depth(stack: Stack) -> int:
  return math.prod(stack.shape[:-2])


def _coordinates(sizes: dict[str, int], axes: Axes) -> Int[np.ndarray, 'D']:
  """Each device's place along these axes, the first of them major."""
  shape = tuple(sizes.values())
  index = np.indices(shape).reshape(len(shape), math.prod(shape))
  found = np.zeros(index.shape[1], int)
  for axis in axes:
    found = found * sizes[axis] + index[list(sizes).index(axis)]
  return found


def _rows(
    bucket: Bucket, sizes: dict[str, int],
) -> tuple[Int[np.ndarray, 'G'], Int[np.ndarray, 'G']]:
  """Each matrix's row among what its owners hold, and which part that is."""
  rows, parts, held = [], [], 0
  for stack in bucket.stacks:
    lead = stack.shape[:-2]
    cuts = [math.prod(sizes[a] for a in axes) for axes in stack.axes[:-2]]
    local = [size // cut for size, cut in zip(lead, cuts, strict=True)]
    index = np.indices(lead).reshape(len(lead), math.prod(lead))
    row, part = np.zeros((2, index.shape[1]), int)
    for at, size, cut in zip(index, local, cuts, strict=True):
      row, part = row * size + at % size, part * cut + at // size
    rows.append(held + row)
    parts.append(part)
    held += math.prod(local)
  return np.concatenate(rows), np.concatenate(parts)


def _padded(
    table: Sequence[Sequence[int]], width: int = 0,
) -> Int[np.ndarray, 'D C']:
  width = width or max(map(len, table))
  return np.array([[*row, *[0] * (width - len(row))] for row in table], int)
