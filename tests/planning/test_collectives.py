"""What chips send, of programs compiled here for eight devices."""
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlft.ops import sharding
from rlft.planning import collectives, traffic

N = 64
WHOLE = 4 * N * N  # bytes


@pytest.fixture
def mesh():
  return sharding.of(jax.devices(), data=2, fsdp=4, tensor=1)


def program(mesh, function, *specs, out):
  shapes = [jax.ShapeDtypeStruct((N, N), jnp.float32, sharding=NamedSharding(
      mesh, PartitionSpec(*spec))) for spec in specs]
  return jax.jit(function, out_shardings=NamedSharding(
      mesh, PartitionSpec(*out))).lower(*shapes).compile().as_text()


def test_nothing_is_sent_where_nothing_must_be(mesh):
  text = program(mesh, lambda x: 2 * x, ('data',), out=('data',))
  assert collectives.sent(text) == {}


def test_a_gather_sends_all_but_ones_own(mesh):
  text = program(mesh, lambda x: 2 * x, ('fsdp',), out=())
  assert collectives.sent(text) == {
      'all-gather': {'count': 1, 'bytes': WHOLE * 3 / 4}}


def test_a_sum_sends_twice_as_much(mesh):
  text = program(
      mesh, lambda x, w: x @ w, (None, 'fsdp'), ('fsdp',), out=())
  assert collectives.sent(text) == {
      'all-reduce': {'count': 1, 'bytes': 2 * WHOLE * 3 / 4}}


def test_a_loop_sends_as_often_as_it_runs(mesh):
  def run(x, w):
    def step(x, _):
      return jax.lax.with_sharding_constraint(
          x @ w, PartitionSpec(None, 'fsdp')), None
    return jax.lax.scan(step, x, None, length=5)[0]

  with sharding.over(mesh):
    text = program(
        mesh, run, (None, 'fsdp'), ('fsdp',), out=(None, 'fsdp'))
  found = collectives.sent(text)
  assert sum(x['count'] for x in found.values()) in (5, 10)
  assert all(x['count'] % 5 == 0 for x in found.values())


def test_the_text_of_a_tpu_is_read():
  """Groups as a mesh, a channel that is written down twice, a known loop."""
  text = '''HloModule step

%fused (p: bf16[2,4]) -> bf16[2,16] {
  %all-gather.1 = bf16[2,16]{1,0:T(8,128)} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={1}
}

%again (p: bf16[2,4]) -> bf16[2,16] {
  %all-gather.2 = bf16[2,16]{1,0:T(8,128)} all-gather(%p), channel_id=7, \
replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={1}
}

%body (c: (s32[], bf16[2,4])) -> (s32[], bf16[2,4]) {
  %a = bf16[2,16] fusion(%x), kind=kCustom, calls=%fused
  %b = bf16[2,16] fusion(%x), kind=kCustom, calls=%again
}

%condition (c: (s32[], bf16[2,4])) -> pred[] {
  %bound = s32[] constant(28)
}

ENTRY %main (x: bf16[2,4]) -> bf16[2,4] {
  %loop = (s32[], bf16[2,4]) while(%t), condition=%condition, body=%body
}
'''
  assert collectives.sent(text) == {
      'all-gather': {'count': 28, 'bytes': 28 * 2 * 16 * 2 * 3 / 4}}


def test_memory_is_touched_as_often_as_a_loop_runs():
  x = jnp.ones((N, N))

  def run(n):
    return jax.jit(lambda x: jax.lax.fori_loop(
        0, n, lambda _, x: jnp.sin(x @ x), x)).lower(x).compile().as_text()

  one, ten = (traffic.touched(run(n)) for n in (10, 100))
  assert ten == pytest.approx(10 * one, rel=0.1)
  assert one >= 10 * 3 * WHOLE


def test_a_sum_that_is_cut_on_the_way_is_a_scatter():
  """As TPUs write it: half of what a sum sends."""
  text = """HloModule m

%all-reduce-scatter.8 (x: bf16[64,32]) -> bf16[16,32] {
  %x = bf16[64,32]{1,0} parameter(0)
  %s = bf16[64,32]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1,2,3}}
  ROOT %slice = bf16[16,32]{1,0} dynamic-slice(%s)
}

ENTRY %main (p: bf16[64,32]) -> bf16[16,32] {
  %p = bf16[64,32]{1,0} parameter(0)
  ROOT %f = bf16[16,32]{1,0} fusion(%p), calls=%all-reduce-scatter.8
}
"""
  assert collectives.sent(text) == {
      'reduce-scatter': {'count': 1, 'bytes': 64 * 32 * 2 * 3 / 4}}


def test_what_stays_beside_the_cores_is_no_traffic():
  text = """HloModule m

ENTRY %main (p: f32[64]) -> f32[64] {
  %p = f32[64]{0:T(128)} parameter(0)
  %near = f32[64]{0:T(128)S(1)} copy(%p)
  ROOT %out = f32[64]{0:T(128)} negate(%near)
}
"""
  assert traffic.touched(text) == 2 * 64 * 4


def test_what_is_cut_out_of_a_stack_or_put_into_it_counts_alone():
  """As a loop over layers does, fused with what it computes."""
  text = """HloModule m

%fused (stack: f32[28,64], x: f32[64], i: s32[]) -> f32[64] {
  %stack = f32[28,64]{1,0} parameter(0)
  %b = f32[28,64]{1,0} bitcast(%stack)
  %x = f32[64]{0} parameter(1)
  %i = s32[] parameter(2)
  %cut = f32[1,64]{1,0} dynamic-slice(%b, %i), dynamic_slice_sizes={1,64}
  %flat = f32[64]{0} bitcast(%cut)
  ROOT %sum = f32[64]{0} add(%flat, %x)
}

%putting (stack: f32[28,64], x: f32[1,64], i: s32[]) -> f32[28,64] {
  %stack = f32[28,64]{1,0} parameter(0)
  %x = f32[1,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %twice = f32[1,64]{1,0} add(%x, %x)
  ROOT %new = f32[28,64]{1,0} dynamic-update-slice(%stack, %twice, %i)
}

ENTRY %main (stack: f32[28,64], x: f32[64], i: s32[]) -> f32[28,64] {
  %stack = f32[28,64]{1,0} parameter(0)
  %x = f32[64]{0} parameter(1)
  %i = s32[] parameter(2)
  %y = f32[64]{0} fusion(%stack, %x, %i), kind=kLoop, calls=%fused
  %z = f32[1,64]{1,0} bitcast(%y)
  ROOT %r = f32[28,64]{1,0} fusion(%stack, %z, %i), kind=kLoop, calls=%putting
}
"""
  row = 64 * 4
  assert traffic.touched(text) == (3 * row + 4) + (2 * row + 4)


def test_a_scan_over_layers_reads_each_once():
  """On CPUs as well: twice as many layers, twice as much."""
  def run(layers):
    stack = jnp.ones((layers, 256, 256))
    step = lambda x, w: (jnp.tanh(x @ w), None)
    return jax.jit(lambda x, s: jax.lax.scan(step, x, s)[0]).lower(
        jnp.ones((8, 256)), stack).compile().as_text()

  few, many = (traffic.touched(run(n)) for n in (8, 32))
  assert many / few == pytest.approx(4, rel=.1)
  assert few < 3.3 * 8 * 256 * 256 * 4  # cut out, and multiplied with


def test_a_cut_may_lie_in_a_fusion_within_a_fusion():
  """As TPUs write a product of tiles; what is read whole beside it is whole."""
  text = """HloModule m

%tile (w: f32[640,64], i: s32[]) -> f32[64,64] {
  %w = f32[640,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  ROOT %cut = f32[64,64]{1,0} dynamic-slice(%w, %i), dynamic_slice_sizes={64,64}
}

%product (w: f32[640,64], i: s32[], x: f32[8,64]) -> f32[8,64] {
  %w = f32[640,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = f32[8,64]{1,0} parameter(2)
  %inner = f32[64,64]{1,0} fusion(%w, %i), kind=kLoop, calls=%tile
  ROOT %y = f32[8,64]{1,0} convolution(%x, %inner), dim_labels=bf_io->bf
}

ENTRY %main (w: f32[640,64], i: s32[], x: f32[8,64]) -> f32[8,64] {
  %w = f32[640,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %x = f32[8,64]{1,0} parameter(2)
  ROOT %y = f32[8,64]{1,0} fusion(%w, %i, %x), kind=kOutput, calls=%product
}
"""
  assert traffic.touched(text) == 4 * (64 * 64 + 1 + 2 * 8 * 64)
