"""Tile sizes of the attention kernels by architecture and head size.

Each row was compiled ahead of time for its architecture: no spills, shared memory within the limit (docs/kernels.md,
tests/kernels/test_compile.py). Which of the spill-free rows is fastest only a GPU can say; none has said yet.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Tile:
    """One launch: m query rows, n key rows, warps, pipeline stages."""

    m: int
    n: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tiles:
    """The three kernels of one architecture and padded head size."""

    forward: Tile
    backward_kv: Tile
    backward_q: Tile


HALF = {
    (90, 64): Tiles(Tile(128, 128, 8, 3), Tile(64, 128, 8, 2), Tile(128, 64, 8, 3)),
    (90, 128): Tiles(Tile(128, 128, 8, 3), Tile(32, 128, 8, 2), Tile(128, 64, 8, 3)),
    (80, 64): Tiles(Tile(128, 64, 8, 3), Tile(64, 64, 8, 2), Tile(64, 64, 4, 2)),
    (80, 128): Tiles(Tile(128, 32, 8, 2), Tile(64, 64, 8, 1), Tile(64, 64, 8, 2)),
}
FULL = Tiles(Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1))
INTERPRETED = Tiles(Tile(64, 32, 1, 1), Tile(32, 64, 1, 1), Tile(64, 32, 1, 1))


def tiles_for(arch: int, padded_head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of an architecture (0 is the interpreter); newer than sm_90 takes sm_90's, fp32 takes small ones."""
    if arch == 0:
        return INTERPRETED
    if dtype == torch.float32:
        return FULL
    return HALF[90 if arch >= 90 and arch < 120 else 80, 64 if padded_head_dim <= 64 else 128]
