"""Document-masked causal flash attention in Triton: GQA, RoPE fused, forward and backward without atomics.

Mask: row i sees column j iff start[i] <= j <= i. Two int32 per token describe it completely; tiles may straddle documents,
and there is no host synchronisation. Algorithm: FlashAttention-2 (Dao 2023) with lse in base 2. Every program owns what it
writes, so two backward passes give the same bits.

RoPE: K is rotated by a small pass; Q in the prologue of the forward kernel, stored once and read rotated by the backward
kernels, which turn dQ and dK back in their epilogues. Rotating K inside the loop would repeat it for every query tile and
costs registers (31 spills on sm_90 at head size 128).

Head sizes that are not a power of two (80, 96) take 128 columns, each half of the head its own 64: RoPE pairs the halves.
"""

from __future__ import annotations

import triton
import triton.language as tl

from megabiomed.kernels.triton.launch import Block, Pointer, Scalar


@triton.jit
def _columns(D: tl.constexpr, P: tl.constexpr) -> tuple[Block, Block]:
    """Where the P columns of a tile lie in a head of D elements, and which exist."""
    c = tl.arange(0, P)
    if D == P:
        return c, c < P
    half = c // (P // 2)
    j = c - half * (P // 2)
    return half * (D // 2) + j, j < D // 2


@triton.jit
def _load(X: Pointer, rows: Block, stride: Scalar, T: Scalar, D: tl.constexpr, P: tl.constexpr) -> Block:
    """[rows, P] of one head; zeros outside of the tensor."""
    if D == P:  # without a mask over the columns the compiler loads 128 bits at once
        return tl.load(X + rows[:, None] * stride + tl.arange(0, P)[None, :], mask=rows[:, None] < T, other=0.0)
    column, exists = _columns(D, P)
    inside = (rows[:, None] < T) & exists[None, :]
    return tl.load(X + rows[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store(X: Pointer, x: Block, rows: Block, stride: Scalar, T: Scalar, D: tl.constexpr, P: tl.constexpr) -> None:
    """Write those elements of a tile [rows, P] that exist."""
    column, exists = _columns(D, P)
    inside = rows[:, None] < T
    if D != P:
        inside = inside & exists[None, :]
    tl.store(X + rows[:, None] * stride + column[None, :], x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(
    x: Block,
    COS: Pointer,
    SIN: Pointer,
    rows: Block,
    T: Scalar,
    sign: Scalar,
    B: tl.constexpr,
    D: tl.constexpr,
    P: tl.constexpr,
) -> Block:
    """(a, b) -> (a cos - b sin, b cos + a sin) on the halves of the head; sign -1 undoes it."""
    j = tl.arange(0, P // 2)
    at = rows[:, None] * (D // 2) + j[None, :]
    inside = (rows[:, None] < T) & (j[None, :] < D // 2)
    cos = tl.load(COS + at, mask=inside, other=1.0)
    sin = tl.load(SIN + at, mask=inside, other=0.0) * sign
    a, b = tl.split(tl.permute(tl.reshape(x.to(tl.float32), [B, 2, P // 2]), (0, 2, 1)))
    return tl.reshape(tl.permute(tl.join(a * cos - b * sin, b * cos + a * sin), (0, 2, 1)), [B, P])


@triton.jit
def _sees(rows: Block, start: Block, columns: Block) -> Block:
    """The mask, by broadcasting."""
    return (columns <= rows) & (columns >= start)


@triton.jit
def rope(
    X: Pointer,
    Y: Pointer,
    COS: Pointer,
    SIN: Pointer,
    stride_x: Scalar,
    stride_y: Scalar,
    T: Scalar,
    sign: Scalar,
    D: tl.constexpr,
    P: tl.constexpr,
    B: tl.constexpr,
) -> None:
    """Y = X rotated, one tile of rows of one head per program; Y may be X."""
    rows = tl.program_id(0) * B + tl.arange(0, B)
    head = tl.program_id(1) * D
    x = _rotate(_load(X + head, rows, stride_x, T, D, P), COS, SIN, rows, T, sign, B, D, P)
    _store(Y + head, x, rows, stride_y, T, D, P)


@triton.jit
def attention_forward(
    Q: Pointer, QR: Pointer, K: Pointer, V: Pointer, OUT: Pointer, LSE: Pointer, START: Pointer, COS: Pointer, SIN: Pointer,
    stride_q: Scalar, stride_qr: Scalar, stride_k: Scalar, stride_v: Scalar, stride_o: Scalar, T: Scalar, scale2: Scalar,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ROPE: tl.constexpr,
) -> None:  # fmt: skip
    """OUT and LSE (base 2) of one query tile of one head; with ROPE the rotated tile is stored to QR, which may be Q."""
    # The last tile of a window sees the most keys; started last it would keep one multiprocessor busy while others idle.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    kv_head = head // (HQ // HKV)
    rows = tile * M + tl.arange(0, M)
    start = tl.load(START + tl.minimum(rows, T - 1))
    q = _load(Q + head * D, rows, stride_q, T, D, P)
    if ROPE:
        q = _rotate(q, COS, SIN, rows, T, 1.0, M, D, P).to(q.dtype)
        _store(QR + head * D, q, rows, stride_qr, T, D, P)
    acc = tl.zeros([M, P], tl.float32)
    total = tl.zeros([M], tl.float32)
    highest = tl.full([M], -1e30, tl.float32)  # finite: a row that a whole tile masks gives p = 0, not NaN
    # From the tile in which this tile's first document begins: keys of earlier documents are never loaded. That, not the
    # mask, is what makes packed documents cheaper than one long one.
    for n in tl.range(tl.min(start, 0) // N * N, tl.minimum((tile + 1) * M, T), N):
        columns = n + tl.arange(0, N)
        k = _load(K + kv_head * D, columns, stride_k, T, D, P)
        v = _load(V + kv_head * D, columns, stride_v, T, D, P)
        # "ieee": for fp32 inputs Triton would multiply in TF32, three digits. Half precision is not affected.
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * scale2
        s = tl.where(_sees(rows[:, None], start[:, None], columns[None, :]), s, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 1))
        p = tl.math.exp2(s - higher[:, None])
        shrink = tl.math.exp2(highest - higher)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision="ieee")
        highest = higher
    total = tl.where(total == 0.0, 1.0, total)  # a row that sees nothing gives zeros
    tl.store(LSE + head * T + rows, highest + tl.math.log2(total), mask=rows < T)
    _store(OUT + head * D, acc / total[:, None], rows, stride_o, T, D, P)


@triton.jit
def attention_delta(
    OUT: Pointer,
    DO: Pointer,
    DELTA: Pointer,
    stride_o: Scalar,
    stride_do: Scalar,
    stride_l: Scalar,
    T: Scalar,
    D: tl.constexpr,
    P: tl.constexpr,
    M: tl.constexpr,
) -> None:
    """DELTA = rowsum(OUT * DO)."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    o = _load(OUT + head * D, rows, stride_o, T, D, P).to(tl.float32)
    do = _load(DO + head * D, rows, stride_do, T, D, P).to(tl.float32)
    tl.store(DELTA + head * stride_l + rows, tl.sum(o * do, 1), mask=rows < T)


@triton.jit
def attention_backward_kv(
    Q: Pointer, K: Pointer, V: Pointer, DO: Pointer, DK: Pointer, DV: Pointer, LSE: Pointer, DELTA: Pointer,
    START: Pointer, END: Pointer, COS: Pointer, SIN: Pointer,
    stride_q: Scalar, stride_k: Scalar, stride_v: Scalar, stride_do: Scalar, stride_dk: Scalar, stride_dv: Scalar,
    T: Scalar, scale2: Scalar, scale: Scalar,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ROPE: tl.constexpr,
) -> None:  # fmt: skip
    """DK and DV of one key tile; the query heads of its group are summed in registers, in one fixed order."""
    first = tl.program_id(0) * N
    kv_head = tl.program_id(1)
    columns = first + tl.arange(0, N)
    k = _load(K + kv_head * D, columns, stride_k, T, D, P)
    v = _load(V + kv_head * D, columns, stride_v, T, D, P)
    last = tl.max(tl.load(END + tl.minimum(columns, T - 1)), 0)
    dk = tl.zeros([N, P], tl.float32)
    dv = tl.zeros([N, P], tl.float32)
    for member in range(HQ // HKV):
        head = kv_head * (HQ // HKV) + member
        # Rows before the first key of the tile cannot see it, nor can rows after the end of its last document.
        for m in tl.range(first // M * M, last, M):
            rows = m + tl.arange(0, M)
            start = tl.load(START + tl.minimum(rows, T - 1))
            q = _load(Q + head * D, rows, stride_q, T, D, P)
            do = _load(DO + head * D, rows, stride_do, T, D, P)
            lse = tl.load(LSE + head * T + rows, mask=rows < T, other=0.0)
            delta = tl.load(DELTA + head * T + rows, mask=rows < T, other=0.0)
            p = tl.math.exp2(tl.dot(k, tl.trans(q), input_precision="ieee") * scale2 - lse[None, :])
            p = tl.where(_sees(rows[None, :], start[None, :], columns[:, None]), p, 0.0)
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
            dp = tl.dot(v, tl.trans(do), input_precision="ieee") - delta[None, :]
            dk = tl.dot((p * dp).to(q.dtype), q, dk, input_precision="ieee")
    if ROPE:
        dk = _rotate(dk, COS, SIN, columns, T, -1.0, N, D, P)
    _store(DK + kv_head * D, dk * scale, columns, stride_dk, T, D, P)
    _store(DV + kv_head * D, dv, columns, stride_dv, T, D, P)


@triton.jit
def attention_backward_q(
    Q: Pointer, K: Pointer, V: Pointer, DO: Pointer, DQ: Pointer, LSE: Pointer, DELTA: Pointer, START: Pointer,
    COS: Pointer, SIN: Pointer,
    stride_q: Scalar, stride_k: Scalar, stride_v: Scalar, stride_do: Scalar, stride_dq: Scalar,
    T: Scalar, scale2: Scalar, scale: Scalar,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ROPE: tl.constexpr,
) -> None:  # fmt: skip
    """DQ of one query tile of one head."""
    # A kernel of its own, which multiplies K Q^T and V dO^T a second time: adding into dQ from the K/V kernel would need
    # atomics, whose order and therefore bits change from run to run.
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    kv_head = head // (HQ // HKV)
    rows = tile * M + tl.arange(0, M)
    start = tl.load(START + tl.minimum(rows, T - 1))
    q = _load(Q + head * D, rows, stride_q, T, D, P)
    do = _load(DO + head * D, rows, stride_do, T, D, P)
    lse = tl.load(LSE + head * T + rows, mask=rows < T, other=0.0)
    delta = tl.load(DELTA + head * T + rows, mask=rows < T, other=0.0)
    dq = tl.zeros([M, P], tl.float32)
    for n in tl.range(tl.min(start, 0) // N * N, tl.minimum((tile + 1) * M, T), N):
        columns = n + tl.arange(0, N)
        k = _load(K + kv_head * D, columns, stride_k, T, D, P)
        v = _load(V + kv_head * D, columns, stride_v, T, D, P)
        p = tl.math.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 - lse[:, None])
        p = tl.where(_sees(rows[:, None], start[:, None], columns[None, :]), p, 0.0)
        dp = tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None]
        dq = tl.dot((p * dp).to(k.dtype), k, dq, input_precision="ieee")
    if ROPE:
        dq = _rotate(dq, COS, SIN, rows, T, -1.0, M, D, P)
    _store(DQ + head * D, dq * scale, rows, stride_dq, T, D, P)
