"""What the Hopper kernels share: the shape of a program, layouts, the rings' bookkeeping, RoPE on register tiles.

A program owns 128 rows: two consumer warpgroups of 64 rows each, which share the tiles that one producer warp streams into
a ring by TMA. `full` barriers count the bytes of a tile, `free` barriers count the two consumers. The i-th tile of a ring
lies in stage i % STAGES and is the (i // STAGES)-th there; its barriers have completed that many phases before it.

The registers of a multiprocessor are dealt out by hand where a kernel is specialised: 240 per thread for the 8 consumer warps,
24 for the producer, which occupies 4 warps and only starts copies. (8 x 240 + 4 x 24) x 32 threads = 64,512 of 65,536.
"""

from __future__ import annotations

from typing import TypeAlias

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from megabiomed.kernels.triton.launch import Block, Pointer, Scalar

Descriptor: TypeAlias = tma.tensor_descriptor
"""A tensor in global memory and the box that one copy of it moves."""
Shared: TypeAlias = gl.shared_memory_descriptor
"""A buffer in shared memory, or several behind one index; barriers are such buffers too."""

ROWS = gl.constexpr(128)  # of a program
PART = gl.constexpr(64)  # of a consumer
CONSUMERS = gl.constexpr(2)

thread_barrier = getattr(gl, "barrier" if hasattr(gl, "barrier") else "thread_barrier")
"""Barrier of the warps of a partition: `gl.barrier` from Triton 3.7, `gl.thread_barrier` in 3.6."""


@gluon.jit
def phase_of(i: Scalar, STAGES: gl.constexpr) -> Scalar:
    """Parity of the phase that fills the i-th tile; a producer waits for the opposite one of `free`."""
    return (i // STAGES) & 1


@gluon.jit
def ring(count: gl.constexpr, STAGES: gl.constexpr) -> Shared:
    """One initialised barrier per stage."""
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        mbarrier.init(barriers.index(stage), count=count)
    return barriers


@gluon.constexpr_function
def product_layout(columns: int) -> gl.NVMMADistributedLayout:
    """Where a warpgroup's matrix instruction leaves a [64, columns] result."""
    return gl.NVMMADistributedLayout(version=[3, 0], warps_per_cta=[4, 1], instr_shape=[16, columns, 16])


@gluon.jit
def turned(x: Block, COS: Pointer, SIN: Pointer, first: Scalar, T: Scalar, sign: Scalar, D: gl.constexpr) -> Block:
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
