"""Rotary position embedding (Su et al. 2021) in Llama's half-split layout."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def rope_table(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, each [length, head_dim / 2] fp32; angles as Hugging Face computes them."""
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)
    angle = torch.outer(torch.arange(length).float(), frequency)  # [length, d/2]
    return angle.cos().to(device), angle.sin().to(device)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + d/2]).

    Args:
        x: [t, heads, d].
        cos, sin: [t, d/2] fp32, rows of `rope_table` at each token's position.
    """
    low, high = x.float().chunk(2, dim=-1)  # [t, heads, d/2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)  # [t, heads, d]
