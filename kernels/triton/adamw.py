"""AdamW on a flat shard in Triton: unscale and clip, update and cast in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from megabiomed.kernels.adamw import Rule, Shard

BLOCK = 2048


@triton.jit
def adamw(P, G, M, V, COPY, SCALE, N, lr, beta1, beta2, eps, weight_decay, correct1, correct2, B: tl.constexpr):
    """One block of P, M, V (fp32), G (any type) and COPY (the model's type)."""
    at = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    inside = at < N
    g = tl.load(G + at, mask=inside, other=0.0).to(tl.float32) * tl.load(SCALE)
    m = tl.load(M + at, mask=inside, other=0.0) * beta1 + g * (1.0 - beta1)
    v = tl.load(V + at, mask=inside, other=0.0) * beta2 + g * g * (1.0 - beta2)
    p = tl.load(P + at, mask=inside, other=0.0) * (1.0 - lr * weight_decay)
    p -= lr * (m / correct1) / (tl.sqrt(v / correct2) + eps)
    tl.store(M + at, m, mask=inside)
    tl.store(V + at, v, mask=inside)
    tl.store(P + at, p, mask=inside)
    tl.store(COPY + at, p.to(COPY.dtype.element_ty), mask=inside)


def adamw_step(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """See `megabiomed.kernels.adamw`."""
    n = shard.master.numel()
    if n == 0:
        return
    adamw[(triton.cdiv(n, BLOCK),)](
        shard.master, shard.gradient, shard.first, shard.second, shard.copy, scale, n, rule.lr, *rule.betas, rule.eps,
        rule.weight_decay, *rule.corrections, BLOCK, num_warps=8,
    )  # fmt: skip
