"""Tile sizes of the attention kernels by architecture and head size.

Each row was compiled ahead of time for its architecture: no spills, shared memory within the limit (docs/kernels.md,
tests/kernels/test_compile.py). Which of the rows without spills is fastest has not been measured.
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


# (architecture, padded head size): half precision. The backward kernel for K and V keeps four tiles at once (k, v, dk, dv), so
# its loop takes the fewest query rows: with 32 of them it uses 244 of 255 registers at head size 128 on sm_90.
HALF = {
    (90, 64): Tiles(Tile(128, 128, 8, 3), Tile(64, 128, 8, 2), Tile(128, 64, 8, 3)),
    (90, 128): Tiles(Tile(128, 128, 8, 3), Tile(32, 128, 8, 2), Tile(128, 64, 8, 3)),
    (80, 64): Tiles(Tile(128, 64, 8, 3), Tile(64, 64, 8, 2), Tile(64, 64, 4, 2)),
    (80, 128): Tiles(Tile(128, 32, 8, 2), Tile(64, 64, 8, 1), Tile(64, 64, 8, 2)),
}
# fp32 takes twice the registers and shared memory, and no tensor core (products are exact): it is for tests, not for speed.
FULL = Tiles(Tile(32, 32, 4, 1), Tile(32, 32, 4, 1), Tile(32, 32, 4, 1))
# The interpreter's time goes with the number of operations, hardly with their size. These are the largest tiles of which a
# window of a test still has several.
INTERPRETED = Tiles(Tile(64, 32, 1, 1), Tile(32, 64, 1, 1), Tile(64, 32, 1, 1))


def tiles_for(arch: int, padded_head_dim: int, dtype: torch.dtype) -> Tiles:
    """Tiles of an architecture (0 is the interpreter); newer than sm_90 takes sm_90's, fp32 takes small ones."""
    if arch == 0:
        return INTERPRETED
    if dtype == torch.float32:
        return FULL
    # sm_120 (workstation Blackwell) has 99 KiB of shared memory per program, less than sm_90's tiles take.
    return HALF[90 if arch >= 90 and arch < 120 else 80, 64 if padded_head_dim <= 64 else 128]
