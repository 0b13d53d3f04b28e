"""Rotary position embedding (Su et al. 2021) in Llama's half-split layout."""

from __future__ import annotations

import torch
from torch import Tensor


def rope_frequencies(head_dim: int, theta: float) -> Tensor:
    """What each pair of a head turns by per token, theta^(-2i/d), [d/2] fp32, as Hugging Face computes it."""
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim)


def rope_table(frequencies: Tensor, length: int, device: torch.device, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of every position, each [length, d/2] fp32; angles as Hugging Face computes them.

    Args:
        frequencies: [d/2] fp32 on the CPU.
        scale: what both are multiplied with (YaRN's attention factor).
    """
    angle = torch.outer(torch.arange(length).float(), frequencies)  # [length, d/2]
    return (angle.cos() * scale).to(device), (angle.sin() * scale).to(device)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[i], x[i + d/2]).

    Args:
        x: [t, heads, d].
        cos, sin: [t, d/2] fp32, rows of `rope_table` at each token's position.
    """
    low, high = x.float().chunk(2, dim=-1)  # [t, heads, d/2]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(x.dtype)  # [t, heads, d]
