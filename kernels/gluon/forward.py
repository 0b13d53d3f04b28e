"""Document-masked causal attention forward for Hopper: TMA producer warp, two consumer warpgroups, Q rotated on the way in.

Row i sees column j iff start[i] <= j <= i. While a consumer's tensor cores multiply P V of one key tile, Q K^T of the next is
done already, and its softmax runs at the same time (FlashAttention-3, Shah et al. 2024, section 3.2).
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from megabiomed.kernels.gluon.tiles import (
    CONSUMERS,
    PART,
    ROWS,
    Descriptor,
    Shared,
    phase_of,
    product_layout,
    ring,
    thread_barrier,
)
from megabiomed.kernels.triton.launch import Block, Pointer, Scalar


@gluon.jit
def _produce(
    kd: Descriptor,
    vd: Descriptor,
    ks: Shared,
    vs: Shared,
    k_full: Shared,
    v_full: Shared,
    k_free: Shared,
    v_free: Shared,
    column: Scalar,
    low: Scalar,
    high: Scalar,
    N: gl.constexpr,
    STAGES: gl.constexpr,
) -> None:
    """Stream key and value tiles [low, high) into the rings."""
    # Keys and values have barriers of their own: a key tile is free one product earlier than the value tile of its stage.
    i = 0
    for n in range(low, high, N):
        stage = i % STAGES
        turn = phase_of(i, STAGES)
        mbarrier.wait(k_free.index(stage), turn ^ 1)
        mbarrier.expect(k_full.index(stage), kd.block_type.nbytes)
        tma.async_copy_global_to_shared(kd, [n, column], k_full.index(stage), ks.index(stage))
        mbarrier.wait(v_free.index(stage), turn ^ 1)
        mbarrier.expect(v_full.index(stage), vd.block_type.nbytes)
        tma.async_copy_global_to_shared(vd, [n, column], v_full.index(stage), vs.index(stage))
        i += 1


@gluon.jit
def _rotated_queries(
    Q: Pointer,
    QR: Pointer,
    COS: Pointer,
    SIN: Pointer,
    q: Shared,
    row: Scalar,
    head: Scalar,
    stride_q: Scalar,
    stride_qr: Scalar,
    T: Scalar,
    D: gl.constexpr,
    ROPE: gl.constexpr,
) -> None:
    """Load this consumer's 64 rows, rotate, keep them in shared memory and in QR (which may be Q) for the backward kernels."""
    L: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    rows = row + gl.arange(0, PART, layout=gl.SliceLayout(1, L))
    c = gl.arange(0, D, layout=gl.SliceLayout(0, L))
    inside = rows[:, None] < T
    x = gl.load(Q + rows[:, None] * stride_q + head * D + c[None, :], mask=inside, other=0.0)
    if ROPE:
        partner = (c + D // 2) % D
        y = gl.load(Q + rows[:, None] * stride_q + head * D + partner[None, :], mask=inside, other=0.0)
        at = rows[:, None] * (D // 2) + (c % (D // 2))[None, :]
        cos = gl.load(COS + at, mask=inside, other=1.0)
        sin = gl.load(SIN + at, mask=inside, other=0.0)
        sin = gl.where((c < D // 2)[None, :], -sin, sin)
        x = (x.to(gl.float32) * cos + y.to(gl.float32) * sin).to(x.dtype)
        thread_barrier()  # every load of these rows before the first store into them
        gl.store(QR + rows[:, None] * stride_qr + head * D + c[None, :], x, mask=inside)
    q.store(x)
    fence_async_shared()


@gluon.jit
def _visible_scores(
    s: Block,
    rows: Block,
    start: Block,
    n: Scalar,
    row: Scalar,
    latest: Scalar,
    scale2: Scalar,
    N: gl.constexpr,
    S: gl.constexpr,
) -> Block:
    """Scaled scores of key tile n; a tile is masked only if some row does not see all of it."""
    s = s * scale2
    if (n < latest) | (n + N - 1 > row):
        columns = n + gl.arange(0, N, layout=gl.SliceLayout(0, S))
        sees = (columns[None, :] <= rows[:, None]) & (columns[None, :] >= start[:, None])
        s = gl.where(sees, s, float("-inf"))
    return s


@gluon.jit
def _consume(
    Q: Pointer, QR: Pointer, COS: Pointer, SIN: Pointer, od: Descriptor, LSE: Pointer, START: Pointer,
    qs: Shared, ks: Shared, vs: Shared, k_full: Shared, v_full: Shared, k_free: Shared, v_free: Shared,
    row: Scalar, head: Scalar, low: Scalar, high: Scalar,
    stride_q: Scalar, stride_qr: Scalar, stride_l: Scalar, T: Scalar, scale2: Scalar,
    which: gl.constexpr, D: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """Output and lse (base 2) of 64 rows."""
    S: gl.constexpr = product_layout(N)
    A: gl.constexpr = product_layout(D)
    P: gl.constexpr = gl.DotOperandLayout(0, A, 2)
    q = qs.index(which)
    row += which * PART
    _rotated_queries(Q, QR, COS, SIN, q, row, head, stride_q, stride_qr, T, D, ROPE)
    rows = row + gl.arange(0, PART, layout=gl.SliceLayout(1, S))
    start = gl.load(START + gl.minimum(rows, T - 1))
    latest = gl.max(start, 0)
    nothing = gl.zeros([PART, N], gl.float32, S)
    acc = gl.zeros([PART, D], gl.float32, A)

    # The first key tile by itself: the loop below always has the product P V of the tile before to run along.
    mbarrier.wait(k_full.index(0), 0)
    s = warpgroup_mma(q, ks.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(0, deps=[s])
    mbarrier.arrive(k_free.index(0), count=1)
    s = _visible_scores(s, rows, start, low, row, latest, scale2, N, S)
    highest = gl.maximum(gl.max(s, 1), -1e30)  # finite: a row that a whole tile masks gives p = 0, not NaN
    p = gl.exp2(s - highest[:, None])
    total = gl.sum(p, 1)
    probabilities = gl.convert_layout(p.to(ks.dtype), P)

    i = 0
    for n in range(low + N, high, N):
        before = i % STAGES
        turn = phase_of(i, STAGES)
        i += 1
        stage = i % STAGES
        mbarrier.wait(k_full.index(stage), phase_of(i, STAGES))
        s_flying = warpgroup_mma(q, ks.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(before), turn)
        acc_flying = warpgroup_mma(probabilities, vs.index(before), acc, is_async=True)
        s = warpgroup_mma_wait(1, deps=[s_flying])
        mbarrier.arrive(k_free.index(stage), count=1)
        s = _visible_scores(s, rows, start, n, row, latest, scale2, N, S)
        higher = gl.maximum(highest, gl.max(s, 1))
        p = gl.exp2(s - higher[:, None])
        shrink = gl.exp2(highest - higher)
        total = total * shrink + gl.sum(p, 1)
        highest = higher
        acc, probabilities = warpgroup_mma_wait(0, deps=[acc_flying, probabilities])
        mbarrier.arrive(v_free.index(before), count=1)
        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, A))[:, None]
        probabilities = gl.convert_layout(p.to(ks.dtype), P)

    mbarrier.wait(v_full.index(i % STAGES), phase_of(i, STAGES))
    acc = warpgroup_mma(probabilities, vs.index(i % STAGES), acc, is_async=True)
    acc = warpgroup_mma_wait(0, deps=[acc])
    blind = total == 0.0  # a row that sees nothing gives zeros, and p = exp2(s - inf) = 0 in the backward kernels
    lse = gl.where(blind, float("inf"), highest + gl.log2(gl.where(blind, 1.0, total)))
    gl.store(LSE + head * stride_l + rows, lse)
    acc = acc / gl.convert_layout(gl.where(blind, 1.0, total), gl.SliceLayout(1, A))[:, None]
    q.store(acc.to(ks.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(od, [row, head * D], q)
    tma.store_wait(0)


@gluon.jit
def attention_forward(
    Q: Pointer, QR: Pointer, kd: Descriptor, vd: Descriptor, od: Descriptor, COS: Pointer, SIN: Pointer, LSE: Pointer,
    START: Pointer, stride_q: Scalar, stride_qr: Scalar, stride_l: Scalar, T: Scalar, scale2: Scalar,
    HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """Rows [128 m, 128 m + 128) of one head. kd, vd: [t, hkv d] in boxes [N, D]; od: [t, hq d] in boxes [64, D]."""
    row = (gl.num_programs(0) - 1 - gl.program_id(0)) * ROWS  # longest first
    head = gl.program_id(1)
    rows = row + gl.arange(0, ROWS, layout=gl.BlockedLayout([1], [32], [4], [0]))
    first_seen = gl.min(gl.load(START + gl.minimum(rows, T - 1)), 0)
    low = gl.minimum(first_seen, row) // N * N  # never empty
    high = gl.minimum(row + ROWS, T)
    qs = gl.allocate_shared_memory(od.dtype, [CONSUMERS, PART, D], od.layout)
    ks = gl.allocate_shared_memory(kd.dtype, [STAGES, N, D], kd.layout)
    vs = gl.allocate_shared_memory(vd.dtype, [STAGES, N, D], vd.layout)
    k_full = ring(1, STAGES)
    v_full = ring(1, STAGES)
    k_free = ring(CONSUMERS, STAGES)
    v_free = ring(CONSUMERS, STAGES)
    fence_async_shared()
    column = head // (HQ // HKV) * D
    gl.warp_specialize([
        (_consume, (Q, QR, COS, SIN, od, LSE, START, qs, ks, vs, k_full, v_full, k_free, v_free, row, head, low, high,
                    stride_q, stride_qr, stride_l, T, scale2, 0, D, N, STAGES, ROPE)),
        (_consume, (Q, QR, COS, SIN, od, LSE, START, qs, ks, vs, k_full, v_full, k_free, v_free, row, head, low, high,
                    stride_q, stride_qr, stride_l, T, scale2, 1, D, N, STAGES, ROPE)),
        (_produce, (kd, vd, ks, vs, k_full, v_full, k_free, v_free, column, low, high, N, STAGES)),
    ], [4, 1], [240, 24])  # fmt: skip
