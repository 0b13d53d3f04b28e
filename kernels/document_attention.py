"""Causal attention over packed documents: row i sees j iff start[i] <= j <= i.

Two int32 per token say everything, with static shapes: `start[i]`, first token of i's document part, and `end[i]`, one
past its last. Backends: a loop of per-document SDPA on a CPU (exact, no work across documents), torch's varlen flash
attention on CUDA in half precision, and a dense mask, which is also the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, "Documents"], Tensor]


@dataclass(frozen=True)
class Documents:
    """Document bounds of one packed micro-batch of t tokens; built once, used by every layer.

    Attributes:
        start: [t] int32, first token of each token's document part.
        end: [t] int32, one past its last token.
    """

    start: Tensor
    end: Tensor

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """[documents + 1] int32 cumulative bounds (one host synchronisation on CUDA, once per micro-batch)."""
        index = torch.arange(self.start.numel(), device=self.start.device, dtype=self.start.dtype)
        first = torch.nonzero(self.start == index).flatten().to(torch.int32)
        return F.pad(first, (0, 1), value=self.start.numel())

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, end) of every document part, on the host."""
        edges = self.cu_seqlens.tolist()
        return list(pairwise(edges))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document part."""
        return max(end - start for start, end in self.bounds)


def document_attention(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v inside each document.

    Args:
        query: [t, heads, d].
        key, value: [t, kv_heads, d]; heads is a multiple of kv_heads (GQA).

    Returns:
        [t, heads, d], same type as `query`.
    """
    return choose(query)(query, key, value, documents)


def choose(query: Tensor) -> Attention:
    """The backend for this tensor. All honour document bounds; there is no backend that would ignore them."""
    if not query.is_cuda:
        return per_document
    if query.dtype in (torch.bfloat16, torch.float16) and query.size(-1) <= 256:
        return varlen
    return dense


def per_document(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """One SDPA call a document. On a CPU bf16 is computed in fp32, which is both exact and 3 times faster there."""
    dtype = query.dtype
    if dtype != torch.float32 and not query.is_cuda:
        query, key, value = query.float(), key.float(), value.float()
    gqa = query.size(1) != key.size(1)
    parts = []
    for low, high in documents.bounds:
        q, k, v = (x[low:high].transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # [1, heads, s, d]
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)[0].transpose(0, 1))
    return torch.cat(parts).to(dtype)  # [t, heads, d]


def varlen(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """torch's variable-length flash attention (CUDA, half precision)."""
    from torch.nn.attention.varlen import varlen_attn

    if key.size(1) != query.size(1):
        repeat = query.size(1) // key.size(1)
        key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)  # [t, heads, d]
    cu, longest = documents.cu_seqlens, documents.longest
    return varlen_attn(query, key, value, cu, cu, longest, longest, window_size=(-1, 0))


def dense(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """SDPA under an explicit [t, t] mask: the reference, quadratic in memory."""
    index = torch.arange(query.size(0), device=query.device)
    visible = (index[None, :] <= index[:, None]) & (index[None, :] >= documents.start[:, None])
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # [1, heads, t, d]
    gqa = query.size(1) != key.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=gqa)[0].transpose(0, 1)
