"""What the Hopper kernels share: the shape of a program, layouts, the rings' bookkeeping, RoPE on register tiles.

A program owns 128 rows: two consumer warpgroups of 64 rows each, which share the tiles that one producer warp streams into
a ring by TMA. `full` barriers count the bytes of a tile, `free` barriers count the two consumers. The i-th tile of a ring
lies in stage i % STAGES and is the (i // STAGES)-th there; its barriers have completed that many phases before it.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier

ROWS = gl.constexpr(128)  # of a program
PART = gl.constexpr(64)  # of a consumer
CONSUMERS = gl.constexpr(2)


@gluon.jit
def phase_of(i, STAGES: gl.constexpr):
    """Parity of the phase that fills the i-th tile; a producer waits for the opposite one of `free`."""
    return (i // STAGES) & 1


@gluon.jit
def ring(count: gl.constexpr, STAGES: gl.constexpr):
    """One initialised barrier a stage."""
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(barriers.index(stage), count=count)
    return barriers


@gluon.constexpr_function
def product_layout(columns):
    """Where a warpgroup's matrix instruction leaves a [64, columns] result."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def turned(x, COS, SIN, first, T, sign, D: gl.constexpr):
    """RoPE by -/+ angle of a [64, D] tile in registers: (a, b) -> (a cos - b sin, b cos + a sin), sign -1 undoes it."""
    halves = gl.permute(gl.reshape(x, [PART, 2, D // 2]), (0, 2, 1))
    a, b = gl.split(halves)
    layout: gl.constexpr = a.type.layout
    rows = first + gl.arange(0, PART, layout=gl.SliceLayout(1, layout))
    j = gl.arange(0, D // 2, layout=gl.SliceLayout(0, layout))
    at = rows[:, None] * (D // 2) + j[None, :]
    inside = rows[:, None] < T
    cos = gl.load(COS + at, mask=inside, other=1.0)
    sin = gl.load(SIN + at, mask=inside, other=0.0) * sign
    joined = gl.join(a * cos - b * sin, b * cos + a * sin)
    return gl.reshape(gl.permute(joined, (0, 2, 1)), [PART, D])
