"""Bidirectional attention inside each segment of a packed batch (proteins one after another, no padding).

Backends: one SDPA call per segment (exact anywhere), or torch's varlen flash attention on CUDA in half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor


def segment_attention(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v inside each segment.

    Args:
        query, key, value: [t, heads, d], segments one after the other.
        lengths: tokens of each segment, summing to t.

    Returns:
        [t, heads, d].
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16) and query.size(-1) <= 256:
        return _varlen(query, key, value, lengths)
    return per_segment(query, key, value, lengths)


def per_segment(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    """The reference: one scaled_dot_product_attention per segment."""
    if query.size(0) == 0:
        return query + key + value  # empty, but part of the graph: backward still reaches all three
    parts = []
    for q, k, v in zip(*(x.split(list(lengths)) for x in (query, key, value))):
        q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # [1, heads, s, d]
        parts.append(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1))
    return torch.cat(parts)  # [t, heads, d]


def _varlen(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int]) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    edges = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=query.device)
    longest = max(lengths)
    return varlen_attn(query, key, value, edges, edges, longest, longest)
