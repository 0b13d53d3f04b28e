"""AdamW on a flat shard in Triton: unscale and clip, update and cast in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

from megabiomed.kernels.triton.launch import Pointer, Scalar

if TYPE_CHECKING:
    from megabiomed.kernels.adamw import Rule, Shard

BLOCK = 2048


@triton.jit
def adamw(
    P: Pointer,
    G: Pointer,
    M: Pointer,
    V: Pointer,
    COPY: Pointer,
    SCALE: Pointer,
    N: Scalar,
    lr: Scalar,
    beta1: Scalar,
    beta2: Scalar,
    eps: Scalar,
    weight_decay: Scalar,
    correct1: Scalar,
    correct2: Scalar,
    B: tl.constexpr,
) -> None:
    """One block of P, M, V (fp32), G (any type) and COPY (the model's type, or None)."""
    # A shard of a 7B model on few ranks has more than 2^31 elements.
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    scale = tl.load(SCALE)
    inside = at < tl.where(scale == scale, N, 0)  # NaN: no step
    g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32) * scale
    m = tl.load(M + at, mask=inside, other=0.0) * beta1 + g * (1.0 - beta1)
    v = tl.load(V + at, mask=inside, other=0.0) * beta2 + g * g * (1.0 - beta2)
    p = tl.load(P + at, mask=inside, other=0.0) * (1.0 - lr * weight_decay)
    p -= lr * (m / correct1) / (tl.sqrt(v / correct2) + eps)
    tl.store(M + at, m, mask=inside)
    tl.store(V + at, v, mask=inside)
    tl.store(P + at, p, mask=inside)
    if COPY is not None:
        tl.store(COPY + at, p.to(COPY.dtype.element_ty), mask=inside)


def adamw_step(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """See `megabiomed.kernels.adamw`."""
    n = shard.master.numel()
    if n == 0:
        return
    tensors = (shard.master, shard.gradient, shard.first, shard.second, shard.copy, scale)
    numbers = (rule.lr, *rule.betas, rule.eps, rule.weight_decay, *rule.corrections)
    adamw[(triton.cdiv(n, BLOCK),)](*tensors, n, *numbers, BLOCK, num_warps=8)
