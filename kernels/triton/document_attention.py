"""Document-masked causal flash attention in Triton: GQA, RoPE fused, forward and backward without atomics.

Mask: row i sees column j iff start[i] <= j <= i. Two int32 per token say everything; tiles may straddle documents, and
there is no host synchronisation. Algorithm: FlashAttention-2 (Dao 2023) with lse in base 2. Every program owns what it
writes, so two backward passes give the same bits.

RoPE: K is rotated by a small pass; Q in the prologue of the forward kernel, stored once and read rotated by the backward
kernels, which turn dQ and dK back in their epilogues. Rotating K inside the loop would repeat it for every query tile and
costs registers (31 spills on sm_90 at head size 128).

Head sizes that are no power of two (80, 96) are held in 128 columns, each half of the head in its own 64.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _columns(D: tl.constexpr, P: tl.constexpr):
    """Where the P columns of a tile lie in a head of D elements, and which exist."""
    c = tl.arange(0, P)
    if D == P:
        return c, c < P
    half = c // (P // 2)
    j = c - half * (P // 2)
    return half * (D // 2) + j, j < D // 2


@triton.jit
def _load(X, rows, stride, T, D: tl.constexpr, P: tl.constexpr):
    if D == P:
        return tl.load(X + rows[:, None] * stride + tl.arange(0, P)[None, :], mask=rows[:, None] < T, other=0.0)
    column, exists = _columns(D, P)
    inside = (rows[:, None] < T) & exists[None, :]
    return tl.load(X + rows[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def _store(X, x, rows, stride, T, D: tl.constexpr, P: tl.constexpr):
    column, exists = _columns(D, P)
    inside = rows[:, None] < T
    if D != P:
        inside = inside & exists[None, :]
    tl.store(X + rows[:, None] * stride + column[None, :], x.to(X.dtype.element_ty), mask=inside)


@triton.jit
def _rotate(x, COS, SIN, rows, T, sign, B: tl.constexpr, D: tl.constexpr, P: tl.constexpr):
    """(a, b) -> (a cos - b sin, b cos + a sin) on the halves of the head; sign -1 undoes it."""
    j = tl.arange(0, P // 2)
    at = rows[:, None] * (D // 2) + j[None, :]
    inside = (rows[:, None] < T) & (j[None, :] < D // 2)
    cos = tl.load(COS + at, mask=inside, other=1.0)
    sin = tl.load(SIN + at, mask=inside, other=0.0) * sign
    a, b = tl.split(tl.permute(tl.reshape(x.to(tl.float32), [B, 2, P // 2]), (0, 2, 1)))
    return tl.reshape(tl.permute(tl.join(a * cos - b * sin, b * cos + a * sin), (0, 2, 1)), [B, P])


@triton.jit
def _sees(rows, start, columns):
    return (columns <= rows) & (columns >= start)


@triton.jit
def rope(X, Y, COS, SIN, stride_x, stride_y, T, sign, D: tl.constexpr, P: tl.constexpr, B: tl.constexpr):
    """Y = X rotated, one tile of rows of one head a program; Y may be X."""
    rows = tl.program_id(0) * B + tl.arange(0, B)
    head = tl.program_id(1) * D
    x = _rotate(_load(X + head, rows, stride_x, T, D, P), COS, SIN, rows, T, sign, B, D, P)
    _store(Y + head, x, rows, stride_y, T, D, P)


@triton.jit
def attention_forward(
    Q, QR, K, V, OUT, LSE, START, COS, SIN, stride_q, stride_qr, stride_k, stride_v, stride_o, T, scale2,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ROPE: tl.constexpr,
):  # fmt: skip
    """OUT and LSE (base 2) of one query tile of one head; with ROPE the rotated tile is stored to QR, which may be Q."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # longest first
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
    for n in tl.range(tl.min(start, 0) // N * N, tl.minimum((tile + 1) * M, T), N):
        columns = n + tl.arange(0, N)
        k = _load(K + kv_head * D, columns, stride_k, T, D, P)
        v = _load(V + kv_head * D, columns, stride_v, T, D, P)
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
    OUT, DO, DELTA, stride_o, stride_do, stride_l, T, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr
):
    """DELTA = rowsum(OUT * DO)."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    head = tl.program_id(1)
    o = _load(OUT + head * D, rows, stride_o, T, D, P).to(tl.float32)
    do = _load(DO + head * D, rows, stride_do, T, D, P).to(tl.float32)
    tl.store(DELTA + head * stride_l + rows, tl.sum(o * do, 1), mask=rows < T)


@triton.jit
def attention_backward_kv(
    Q, K, V, DO, DK, DV, LSE, DELTA, START, END, COS, SIN, stride_q, stride_k, stride_v, stride_do, stride_dk, stride_dv,
    T, scale2, scale, HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr,
    N: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
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
    Q, K, V, DO, DQ, LSE, DELTA, START, COS, SIN, stride_q, stride_k, stride_v, stride_do, stride_dq, T, scale2, scale,
    HQ: tl.constexpr, HKV: tl.constexpr, D: tl.constexpr, P: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    ROPE: tl.constexpr,
):  # fmt: skip
    """DQ of one query tile of one head."""
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
