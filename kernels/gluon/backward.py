"""Gradients of document-masked causal attention for Hopper, without atomics: one kernel for K and V, one for Q.

Seven products instead of the five of a backward pass that adds into dQ from every key tile. In exchange every program owns
what it writes: the same bits every time, no semaphores, GQA heads summed in registers in a fixed order. dS goes from registers
into the tensor cores unchanged, in the layout in which the product that made it left it. The Q kernel multiplies dS K of one
key tile while it computes dS of the next; in the K/V kernel the registers do not suffice for that.

K/V kernel: transposed scores, keys as rows. Its mask is j <= i < end[j], the same set as start[i] <= j <= i and constant in
the loop. lse = inf marks rows that see nothing; LSE and DELTA are padded to a multiple of a program's rows.
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
    turned,
)
from megabiomed.kernels.triton.launch import Block, Pointer, Scalar


@gluon.jit
def _store_tile(descriptor: Descriptor, values: Block, shared: Shared, row: Scalar, column: Scalar) -> None:
    """Through shared memory, whose old contents are no longer read, to those of rows [row, row + 64) that exist."""
    shared.store(values.to(descriptor.dtype))
    fence_async_shared()
    tma.async_copy_shared_to_global(descriptor, [row, column], shared)
    tma.store_wait(0)


@gluon.jit
def _produce_queries(
    qd: Descriptor, kd: Descriptor, vd: Descriptor, dod: Descriptor, lsed: Descriptor, deltad: Descriptor,
    ks: Shared, vs: Shared, qs: Shared, dos: Shared, lses: Shared, deltas: Shared,
    kv_full: Shared, q_full: Shared, do_full: Shared, free: Shared,
    first: Scalar, last: Scalar, kv_head: Scalar, stride_l: Scalar,
    G: gl.constexpr, D: gl.constexpr, M: gl.constexpr, STAGES: gl.constexpr,
) -> None:  # fmt: skip
    """The program's keys and values once, then the query tiles [first, last) of every head of the group."""
    mbarrier.expect(kv_full, CONSUMERS * (kd.block_type.nbytes + vd.block_type.nbytes))
    for which in gl.static_range(CONSUMERS):
        row = first + which * PART
        tma.async_copy_global_to_shared(kd, [row, kv_head * D], kv_full, ks.index(which))
        tma.async_copy_global_to_shared(vd, [row, kv_head * D], kv_full, vs.index(which))
    i = 0
    for member in range(G):
        head = kv_head * G + member
        for m in range(first, last, M):
            stage = i % STAGES
            mbarrier.wait(free.index(stage), phase_of(i, STAGES) ^ 1)
            mbarrier.expect(q_full.index(stage), qd.block_type.nbytes + lsed.block_type.nbytes)
            tma.async_copy_global_to_shared(qd, [m, head * D], q_full.index(stage), qs.index(stage))
            tma.async_copy_global_to_shared(lsed, [head * stride_l + m], q_full.index(stage), lses.index(stage))
            mbarrier.expect(do_full.index(stage), dod.block_type.nbytes + deltad.block_type.nbytes)
            tma.async_copy_global_to_shared(dod, [m, head * D], do_full.index(stage), dos.index(stage))
            tma.async_copy_global_to_shared(deltad, [head * stride_l + m], do_full.index(stage), deltas.index(stage))
            i += 1


@gluon.jit
def _consume_queries(
    dkd: Descriptor, dvd: Descriptor, END: Pointer, COS: Pointer, SIN: Pointer,
    ks: Shared, vs: Shared, qs: Shared, dos: Shared, lses: Shared, deltas: Shared,
    kv_full: Shared, q_full: Shared, do_full: Shared, free: Shared,
    first: Scalar, last: Scalar, kv_head: Scalar, T: Scalar, scale2: Scalar, scale: Scalar,
    which: gl.constexpr, G: gl.constexpr, D: gl.constexpr, M: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """dK and dV of 64 keys."""
    S: gl.constexpr = product_layout(M)
    A: gl.constexpr = product_layout(D)
    P: gl.constexpr = gl.DotOperandLayout(0, A, 2)
    k = ks.index(which)
    v = vs.index(which)
    row = first + which * PART
    keys = row + gl.arange(0, PART, layout=gl.SliceLayout(1, S))
    end = gl.load(END + gl.minimum(keys, T - 1))
    nearest = gl.min(end, 0)
    nothing = gl.zeros([PART, M], gl.float32, S)
    dk = gl.zeros([PART, D], gl.float32, A)
    dv = gl.zeros([PART, D], gl.float32, A)
    mbarrier.wait(kv_full, 0)
    i = 0
    for _ in range(G):
        for m in range(first, last, M):
            stage = i % STAGES
            turn = phase_of(i, STAGES)
            i += 1
            mbarrier.wait(q_full.index(stage), turn)
            s_flying = warpgroup_mma(k, qs.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
            mbarrier.wait(do_full.index(stage), turn)
            # dP - delta in one product: it starts at -delta. A subtraction afterwards needs registers that are not left.
            delta = deltas.index(stage).load(gl.SliceLayout(0, S))
            minus_delta = nothing - delta[None, :]
            dp_flying = warpgroup_mma(v, dos.index(stage).permute((1, 0)), minus_delta, is_async=True)
            lse = lses.index(stage).load(gl.SliceLayout(0, S))
            s = warpgroup_mma_wait(1, deps=[s_flying])
            p = gl.exp2(s * scale2 - lse[None, :])
            # Most tiles lie between the diagonal and the end of the nearest document, where every row sees every key.
            if (m < row + PART - 1) | (m + M > nearest):
                rows = m + gl.arange(0, M, layout=gl.SliceLayout(0, S))
                p = gl.where((rows[None, :] >= keys[:, None]) & (rows[None, :] < end[:, None]), p, 0.0)
            probabilities = gl.convert_layout(p.to(ks.dtype), P)
            dv_flying = warpgroup_mma(probabilities, dos.index(stage), dv, is_async=True)
            dp = warpgroup_mma_wait(1, deps=[dp_flying])
            ds = gl.convert_layout((p * dp).to(ks.dtype), P)
            dk_flying = warpgroup_mma(ds, qs.index(stage), dk, is_async=True)
            dv, dk = warpgroup_mma_wait(0, deps=[dv_flying, dk_flying])
            mbarrier.arrive(free.index(stage), count=1)
    if ROPE:
        dk = turned(dk, COS, SIN, row, T, -1.0, D)
    _store_tile(dkd, dk * scale, k, row, kv_head * D)
    _store_tile(dvd, dv, v, row, kv_head * D)


@gluon.jit
def attention_backward_kv(
    qd: Descriptor, kd: Descriptor, vd: Descriptor, dod: Descriptor, dkd: Descriptor, dvd: Descriptor, lsed: Descriptor,
    deltad: Descriptor, END: Pointer, COS: Pointer, SIN: Pointer, stride_l: Scalar, T: Scalar, scale2: Scalar, scale: Scalar,
    HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, M: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """Keys [128 n, 128 n + 128) of one key/value head. Boxes: qd, dod [M, D], lsed, deltad [M], the others [64, D]."""
    first = gl.program_id(0) * ROWS
    kv_head = gl.program_id(1)
    keys = first + gl.arange(0, ROWS, layout=gl.BlockedLayout([1], [32], [4], [0]))
    last = gl.max(gl.load(END + gl.minimum(keys, T - 1)), 0)
    ks = gl.allocate_shared_memory(kd.dtype, [CONSUMERS, PART, D], kd.layout)
    vs = gl.allocate_shared_memory(vd.dtype, [CONSUMERS, PART, D], vd.layout)
    qs = gl.allocate_shared_memory(qd.dtype, [STAGES, M, D], qd.layout)
    dos = gl.allocate_shared_memory(dod.dtype, [STAGES, M, D], dod.layout)
    lses = gl.allocate_shared_memory(gl.float32, [STAGES, M], lsed.layout)
    deltas = gl.allocate_shared_memory(gl.float32, [STAGES, M], deltad.layout)
    kv_full = ring(1, 1).index(0)
    q_full = ring(1, STAGES)
    do_full = ring(1, STAGES)
    free = ring(CONSUMERS, STAGES)
    fence_async_shared()
    G: gl.constexpr = HQ // HKV
    gl.warp_specialize([
        (_consume_queries, (dkd, dvd, END, COS, SIN, ks, vs, qs, dos, lses, deltas, kv_full, q_full, do_full, free, first,
                            last, kv_head, T, scale2, scale, 0, G, D, M, STAGES, ROPE)),
        (_consume_queries, (dkd, dvd, END, COS, SIN, ks, vs, qs, dos, lses, deltas, kv_full, q_full, do_full, free, first,
                            last, kv_head, T, scale2, scale, 1, G, D, M, STAGES, ROPE)),
        (_produce_queries, (qd, kd, vd, dod, lsed, deltad, ks, vs, qs, dos, lses, deltas, kv_full, q_full, do_full, free,
                            first, last, kv_head, stride_l, G, D, M, STAGES)),
    ], [4, 1], [240, 24])  # fmt: skip


@gluon.jit
def _produce_keys(
    qd: Descriptor, dod: Descriptor, kd: Descriptor, vd: Descriptor, qs: Shared, dos: Shared, ks: Shared, vs: Shared,
    q_full: Shared, k_full: Shared, v_full: Shared, free: Shared,
    row: Scalar, head: Scalar, column: Scalar, low: Scalar, high: Scalar,
    D: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr,
) -> None:  # fmt: skip
    """The program's queries and output gradients once, then the key and value tiles [low, high)."""
    mbarrier.expect(q_full, CONSUMERS * (qd.block_type.nbytes + dod.block_type.nbytes))
    for which in gl.static_range(CONSUMERS):
        tma.async_copy_global_to_shared(qd, [row + which * PART, head * D], q_full, qs.index(which))
        tma.async_copy_global_to_shared(dod, [row + which * PART, head * D], q_full, dos.index(which))
    i = 0
    for n in range(low, high, N):
        stage = i % STAGES
        mbarrier.wait(free.index(stage), phase_of(i, STAGES) ^ 1)
        mbarrier.expect(k_full.index(stage), kd.block_type.nbytes)
        tma.async_copy_global_to_shared(kd, [n, column], k_full.index(stage), ks.index(stage))
        mbarrier.expect(v_full.index(stage), vd.block_type.nbytes)
        tma.async_copy_global_to_shared(vd, [n, column], v_full.index(stage), vs.index(stage))
        i += 1


@gluon.jit
def _probabilities(
    s: Block, lse: Block, rows: Block, start: Block, latest: Scalar, n: Scalar, row: Scalar, scale2: Scalar,
    N: gl.constexpr, S: gl.constexpr,
) -> Block:  # fmt: skip
    """exp2(scaled scores - lse); most tiles lie where every row sees every key and need no mask."""
    p = gl.exp2(s * scale2 - lse[:, None])
    if (n < latest) | (n + N - 1 > row):
        columns = n + gl.arange(0, N, layout=gl.SliceLayout(0, S))
        p = gl.where((columns[None, :] <= rows[:, None]) & (columns[None, :] >= start[:, None]), p, 0.0)
    return p


@gluon.jit
def _consume_keys(
    dqd: Descriptor, LSE: Pointer, DELTA: Pointer, START: Pointer, COS: Pointer, SIN: Pointer,
    qs: Shared, dos: Shared, ks: Shared, vs: Shared, q_full: Shared, k_full: Shared, v_full: Shared, free: Shared,
    row: Scalar, head: Scalar, low: Scalar, high: Scalar, stride_l: Scalar, T: Scalar, scale2: Scalar, scale: Scalar,
    which: gl.constexpr, D: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """dQ of 64 rows. While the tensor cores multiply dS K of one key tile, dS of the next is computed."""
    S: gl.constexpr = product_layout(N)
    A: gl.constexpr = product_layout(D)
    P: gl.constexpr = gl.DotOperandLayout(0, A, 2)
    q = qs.index(which)
    do = dos.index(which)
    row += which * PART
    rows = row + gl.arange(0, PART, layout=gl.SliceLayout(1, S))
    start = gl.load(START + gl.minimum(rows, T - 1))
    latest = gl.max(start, 0)
    lse = gl.load(LSE + head * stride_l + rows)
    delta = gl.load(DELTA + head * stride_l + rows)
    nothing = gl.zeros([PART, N], gl.float32, S)
    dq = gl.zeros([PART, D], gl.float32, A)
    mbarrier.wait(q_full, 0)

    # The first tile by itself: the loop below always has the gradient of the tile before to run along.
    mbarrier.wait(k_full.index(0), 0)
    s_flying = warpgroup_mma(q, ks.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(0), 0)
    dp_flying = warpgroup_mma(do, vs.index(0).permute((1, 0)), nothing, use_acc=False, is_async=True)
    s = warpgroup_mma_wait(1, deps=[s_flying])
    p = _probabilities(s, lse, rows, start, latest, low, row, scale2, N, S)
    dp = warpgroup_mma_wait(0, deps=[dp_flying])
    ds = gl.convert_layout((p * (dp - delta[:, None])).to(ks.dtype), P)
    i = 0
    for n in range(low + N, high, N):
        before = i % STAGES
        i += 1
        stage = i % STAGES
        turn = phase_of(i, STAGES)
        mbarrier.wait(k_full.index(stage), turn)
        s_flying = warpgroup_mma(q, ks.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
        mbarrier.wait(v_full.index(stage), turn)
        dp_flying = warpgroup_mma(do, vs.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
        dq_flying = warpgroup_mma(ds, ks.index(before), dq, is_async=True)
        s = warpgroup_mma_wait(2, deps=[s_flying])
        p = _probabilities(s, lse, rows, start, latest, n, row, scale2, N, S)
        dp = warpgroup_mma_wait(1, deps=[dp_flying])
        dp = p * (dp - delta[:, None])
        dq, ds = warpgroup_mma_wait(0, deps=[dq_flying, ds])
        mbarrier.arrive(free.index(before), count=1)
        ds = gl.convert_layout(dp.to(ks.dtype), P)
    dq = warpgroup_mma(ds, ks.index(i % STAGES), dq, is_async=True)
    dq = warpgroup_mma_wait(0, deps=[dq])
    mbarrier.arrive(free.index(i % STAGES), count=1)
    if ROPE:
        dq = turned(dq, COS, SIN, row, T, -1.0, D)
    _store_tile(dqd, dq * scale, q, row, head * D)


@gluon.jit
def attention_backward_q(
    qd: Descriptor, kd: Descriptor, vd: Descriptor, dod: Descriptor, dqd: Descriptor, LSE: Pointer, DELTA: Pointer,
    START: Pointer, COS: Pointer, SIN: Pointer, stride_l: Scalar, T: Scalar, scale2: Scalar, scale: Scalar,
    HQ: gl.constexpr, HKV: gl.constexpr, D: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr, ROPE: gl.constexpr,
) -> None:  # fmt: skip
    """Rows [128 m, 128 m + 128) of one head. Boxes: kd, vd [N, D], the others [64, D]."""
    row = (gl.num_programs(0) - 1 - gl.program_id(0)) * ROWS
    head = gl.program_id(1)
    rows = row + gl.arange(0, ROWS, layout=gl.BlockedLayout([1], [32], [4], [0]))
    first_seen = gl.min(gl.load(START + gl.minimum(rows, T - 1)), 0)
    low = gl.minimum(first_seen, row) // N * N
    high = gl.minimum(row + ROWS, T)
    qs = gl.allocate_shared_memory(qd.dtype, [CONSUMERS, PART, D], qd.layout)
    dos = gl.allocate_shared_memory(dod.dtype, [CONSUMERS, PART, D], dod.layout)
    ks = gl.allocate_shared_memory(kd.dtype, [STAGES, N, D], kd.layout)
    vs = gl.allocate_shared_memory(vd.dtype, [STAGES, N, D], vd.layout)
    q_full = ring(1, 1).index(0)
    k_full = ring(1, STAGES)
    v_full = ring(1, STAGES)
    free = ring(CONSUMERS, STAGES)
    fence_async_shared()
    column = head // (HQ // HKV) * D
    gl.warp_specialize([
        (_consume_keys, (dqd, LSE, DELTA, START, COS, SIN, qs, dos, ks, vs, q_full, k_full, v_full, free, row, head, low,
                         high, stride_l, T, scale2, scale, 0, D, N, STAGES, ROPE)),
        (_consume_keys, (dqd, LSE, DELTA, START, COS, SIN, qs, dos, ks, vs, q_full, k_full, v_full, free, row, head, low,
                         high, stride_l, T, scale2, scale, 1, D, N, STAGES, ROPE)),
        (_produce_keys, (qd, dod, kd, vd, qs, dos, ks, vs, q_full, k_full, v_full, free, row, head, column, low, high, D, N,
                         STAGES)),
    ], [4, 1], [240, 24])  # fmt: skip
