"""Kinds of rotary position embedding: each says which angles a position has; kernels/rope.py rotates by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from megabiomed.kernels.rope import rope_table


class Rope(Protocol):
    """The angles of one model."""

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each [t, d/2] fp32, at positions [t] inside the documents; d is the head size."""


@dataclass(frozen=True)
class PlainRope:
    """Su et al. 2021: pair i turns by theta^(-2i/d) per token.

    Attributes:
        length: positions of the table.
    """

    theta: float
    head_size: int
    length: int

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rope`."""
        cos, sin = rope_table(self.length, self.head_size, self.theta, positions.device)  # [length, d/2]
        return cos[positions], sin[positions]  # [t, d/2]
