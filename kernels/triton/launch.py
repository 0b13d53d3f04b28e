"""What all kernels and launches share: names for arguments, the accumulator's type, warps by row width, persistent grids."""

from __future__ import annotations

from functools import lru_cache
from typing import TypeAlias

import torch
import triton.language as tl
from torch import Tensor

# Inside a kernel every value is a `tl.tensor`; these names say which kind is meant. Triton looks annotations up when it
# compiles, and accepts only names of its own modules there: aliases of its classes pass, `int` or `torch.Tensor` would not.
Pointer: TypeAlias = tl.tensor
"""Address of a tensor's first element in global memory; the launch passes a torch tensor."""
Scalar: TypeAlias = tl.tensor
"""A number: an argument of the launch, or computed by the kernel."""
Block: TypeAlias = tl.tensor
"""Values in registers, one row or tile of a tensor."""

WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
INTERPRETED_PROGRAMS = 3  # enough for a test to see partial sums of several programs


def wide(x: Tensor) -> torch.dtype:
    """Type of the arithmetic: fp32, and fp64 for fp64 inputs (gradcheck)."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def warps_for(block: int) -> int:
    """Warps for one row of `block` elements: at most 16 elements per thread, 16 warps."""
    # 16 bf16 elements are two 128-bit loads per thread: wide enough for the memory, few enough for the registers.
    return max(1, min(16, block // 512))


def programs(x: Tensor, rows: int) -> int:
    """Programs of a grid that each walk over several rows: two per multiprocessor."""
    # Two, so that one loads while the other computes. More would only make more rows of partial sums to add up.
    return min(rows, 2 * _multiprocessors(x.device) if x.is_cuda else INTERPRETED_PROGRAMS)


@lru_cache(maxsize=16)
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count
