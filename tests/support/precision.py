"""How far a computed tensor is from the fp64 truth, and how far it may be."""

from __future__ import annotations

import torch
from torch import Tensor

# bf16: one rounding is 2^-9 = 2e-3 and the interpreter truncates instead of rounding.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 3e-6, torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


def error(got: Tensor | None, truth: Tensor | None) -> float:
    """Relative L2 distance."""
    assert got is not None
    assert truth is not None
    truth = truth.detach().double().cpu()
    return float((got.detach().double().cpu() - truth).norm() / truth.norm().clamp_min(1e-12))


def assert_close(got: Tensor | None, truth: Tensor | None, dtype: torch.dtype, name: str = "") -> None:
    """The distance is within the type's tolerance."""
    assert got is not None
    assert torch.isfinite(got).all(), f"{name} is not finite"
    assert error(got, truth) <= TOLERANCE[dtype], f"{name}: {error(got, truth):.2e}"
