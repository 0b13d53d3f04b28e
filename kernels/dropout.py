"""Dropout as a pure function of (seed, step, token, layer, feature): the same on every topology, and when recomputed.

A random generator would depend on how tokens and features are distributed over the ranks. Here a hash of an element's place
in the global batch and in the full matrix decides whether it stays, so a rank computes only the part that it has.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Names the random numbers of one micro-batch.

    Attributes:
        key: of the run and the step.
        first_token: place of its first token in the global batch.
    """

    key: int
    first_token: int

    @classmethod
    def of_step(cls, seed: int, step: int, first_token: int) -> Noise:
        """The noise of the micro-batch that begins at a token of the global batch of a step."""
        return cls(zlib.crc32(f"dropout {seed} {step}".encode()), first_token)


def drop(x: Tensor, noise: Noise, p: float, layer: str, first_row: int = 0, first_column: int = 0) -> Tensor:
    """x [rows, columns] with a share p of the elements zeroed and the rest divided by 1 - p.

    Args:
        layer: name of the layer, equal on all topologies.
        first_row: token of the micro-batch that is row 0.
        first_column: feature of the full matrix that is column 0.
    """
    kept = keep(x.shape[0], x.shape[1], noise, p, layer, first_row, first_column, x.device)
    return x * kept.to(x.dtype).mul_(1 / (1 - p))


def keep(
    rows: int,
    columns: int,
    noise: Noise,
    p: float,
    layer: str,
    first_row: int = 0,
    first_column: int = 0,
    device: torch.device | None = None,
) -> Tensor:
    """[rows, columns] bool: which elements stay."""
    salt = noise.key ^ zlib.crc32(layer.encode())
    first = noise.first_token + first_row
    row = _mixed(_mixed(_range(first, rows, device)) ^ _signed(salt))
    column = _mixed(_range(first_column, columns, device) + _signed(0x9E3779B9))
    # Rows and columns are mixed before they are added and the sum once more: plain sums are equal along every diagonal.
    drawn = _mixed(row[:, None] + column[None, :])  # uniform over all int32, [rows, columns]
    return drawn >= round(p * 2**32) - 2**31  # the lowest share p of all int32 is dropped


def _range(first: int, count: int, device: torch.device | None) -> Tensor:
    return torch.arange(first, first + count, dtype=torch.int64, device=device).to(torch.int32)


def _mixed(z: Tensor) -> Tensor:
    """A bijection of int32 that spreads every bit: MurmurHash3's finaliser."""
    # The masks make torch's arithmetic shift, which copies the sign, a logical one.
    z = (z ^ (z >> 16 & 0xFFFF)) * _signed(0x85EBCA6B)
    z = (z ^ (z >> 13 & 0x7FFFF)) * _signed(0xC2B2AE35)
    return z ^ (z >> 16 & 0xFFFF)


def _signed(value: int) -> int:
    """The int32 with the same bits."""
    return (value & 0xFFFFFFFF) - ((value & 0x80000000) << 1)
