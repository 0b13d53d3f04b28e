"""Attention of documents with the same beginning: the batch has the shared beginning once, followed by the continuations.

Options of one question share its prompt; questions with the same few-shot examples share these. Forward only: an evaluation
needs no gradient. Plain SDPA per branch; what is saved is all other work on the beginning (projections, feed-forward).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.kernels.rope import apply_rope


@dataclass(frozen=True)
class Group:
    """Consecutive tokens of a batch: the shared beginning, then the branches.

    Attributes:
        low: first token of the group.
        prefix: tokens of the beginning; 0 for one document that shares nothing.
        branches: tokens of each branch; each sees the beginning and itself.
    """

    low: int
    prefix: int
    branches: tuple[int, ...]


@dataclass(frozen=True)
class SharedPrefixes:
    """Bounds of a batch, in place of `Documents`."""

    groups: Sequence[Group]

    def moved(self, move: Callable[[Tensor], Tensor]) -> SharedPrefixes:
        """Itself: the bounds are numbers of the host."""
        return self


def shared_prefix_attention(qkv: Tensor, cos: Tensor, sin: Tensor, prefixes: SharedPrefixes, heads: Any) -> Tensor:
    """Rotate q and k of a fused projection and attend.

    Args:
        qkv: [t, (hq + 2 hkv) d], columns ordered q, k, v.
        cos, sin: [t, d/2] fp32 at each token's position in its own document.
        heads: (hq, hkv).

    Returns:
        [t, hq d].
    """
    hq, hkv = heads
    q, k, v = qkv.unflatten(1, (hq + 2 * hkv, -1)).split([hq, hkv, hkv], dim=1)  # [t, heads, d]
    q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    out = torch.empty_like(q)
    for group in prefixes.groups:
        low, edge = group.low, group.low + group.prefix
        if group.prefix:
            out[low:edge] = _attend(q[low:edge], k[low:edge], v[low:edge])
        for start, stop in _spans(edge, group.branches):
            # Without a beginning these are views, not copies.
            keys = torch.cat([k[low:edge], k[start:stop]]) if group.prefix else k[start:stop]
            values = torch.cat([v[low:edge], v[start:stop]]) if group.prefix else v[start:stop]
            out[start:stop] = _attend(q[start:stop], keys, values)
    return out.flatten(1)


def _spans(first: int, lengths: Sequence[int]) -> list[tuple[int, int]]:
    edges = list(accumulate(lengths, initial=first))
    return list(zip(edges[:-1], edges[1:]))


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last len(q) rows of causal attention: q [n, hq, d], k and v [m, hkv, d], m >= n."""
    n, m = q.size(0), k.size(0)
    gqa = q.size(1) != k.size(1)
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, heads, ., d]
    if n == m:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)[0].transpose(0, 1)
    visible = torch.ones(n, m, dtype=torch.bool, device=q.device).tril(m - n)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=gqa)[0].transpose(0, 1)
