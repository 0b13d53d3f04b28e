"""What all launches share: the accumulator's type, warps by row width, programs of a persistent grid."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton.language as tl
from torch import Tensor

WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
INTERPRETED_PROGRAMS = 3  # enough for a test to see partial sums of several programs


def wide(x: Tensor) -> torch.dtype:
    """Type of the arithmetic: fp32, and fp64 for fp64 inputs (gradcheck)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def warps_for(block: int) -> int:
    """Warps for one row of `block` elements: at most 16 elements a thread, 16 warps."""
    return max(1, min(16, block // 512))


def programs(x: Tensor, rows: int) -> int:
    """Programs of a grid that each walk over several rows: two per multiprocessor."""
    return min(rows, 2 * _multiprocessors(x.device) if x.is_cuda else INTERPRETED_PROGRAMS)


@lru_cache(maxsize=16)
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
