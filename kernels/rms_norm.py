"""RMSNorm (Zhang & Sennrich 2019), alone or fused with the residual add before it.

y = s / sqrt(mean(s^2) + eps) * w with s = x + residual, computed in fp32 (fp64 for fp64 inputs) and rounded once. The sum s is
rounded to the type of the stream before it is normalised, so that backward, which reads the stream, uses the same s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.kernels.dispatch import (
    AUTO,
    Backend,
    Choice,
    Site,
    choose,
    needs_cpu,
    needs_triton,
    serves_all,
    site_of,
)

# A program keeps its row in registers: 32,768 values over 16 warps are 64 of the 128 registers that a thread has then.
MAX_TRITON_WIDTH = 32768

Norms = tuple[Callable[[Tensor, Tensor, float], Tensor], Callable[..., tuple[Tensor, Tensor]]]


def rms_norm(x: Tensor, weight: Tensor, eps: float, backend: str = AUTO) -> Tensor:
    """RMSNorm over the last dimension.

    Args:
        x: [..., n] of any stride.
        weight: [n].
        backend: "auto" or one of `BACKENDS`.

    Returns:
        [..., n] in the type of x.
    """
    return cast(Tensor, choice(site_of(x), backend).function[0](x, weight, eps))


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float, backend: str = AUTO) -> tuple[Tensor, Tensor]:
    """(RMSNorm(x + residual), x + residual), the second being the new residual stream; shapes as `rms_norm`."""
    functions = choice(site_of(x), backend).function
    return cast(tuple[Tensor, Tensor], functions[1](x, residual, weight, eps))


def reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The definition in plain torch, in the type of x."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def add_reference(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The definition of the fused form."""
    stream = x + residual
    return reference(stream, weight, eps), stream


def torch_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """torch's own operation."""
    return F.rms_norm(x, (x.size(-1),), weight, eps)


def torch_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """torch's own operations, one after the other."""
    stream = x + residual
    return torch_rms_norm(stream, weight, eps), stream


class _CpuNorm(torch.autograd.Function):
    """Three passes forward, five backward, each vectorised; autograd over single operations takes eleven."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        s, w = _wide(x), _wide(weight)
        # The norm reads s once and stores nothing; s.square().mean() would write the squares to memory and read them again.
        rstd = torch.linalg.vector_norm(s, dim=-1, keepdim=True).square_().div_(s.size(-1)).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rstd)
        return (s * rstd).mul_(w).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, rstd = ctx.saved_tensors
        s, dy = _wide(x), _wide(dy)
        normal = s * rstd
        g = dy * _wide(weight)
        mean = torch.linalg.vecdot(g, normal).unsqueeze_(-1).div_(s.size(-1))
        dw = (dy * normal).flatten(0, -2).sum(0)
        dx = g.addcmul_(normal, mean, value=-1).mul_(rstd)
        return dx.to(x.dtype), dw.to(weight.dtype), None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def cpu_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm with a hand-written backward."""
    return cast(Tensor, _CpuNorm.apply(x, weight, eps))


def cpu_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `cpu_rms_norm` on the sum; autograd adds the stream's gradient."""
    stream = x + residual
    return cpu_rms_norm(stream, weight, eps), stream


def _refuse_triton(site: Site) -> str | None:
    if site.width > MAX_TRITON_WIDTH:
        return f"a row of {site.width} does not fit one program, which holds {MAX_TRITON_WIDTH}"
    return needs_triton(site)


def _triton() -> Norms:
    from megabiomed.kernels.triton import rms_norm as kernels

    return kernels.rms_norm, kernels.add_rms_norm


BACKENDS = (
    Backend("cpu", needs_cpu, lambda: (cpu_rms_norm, cpu_add_rms_norm), "hand-written backward, fewest passes"),
    Backend("triton", _refuse_triton, _triton, "one pass each way, add fused"),
    Backend("torch", serves_all, lambda: (torch_rms_norm, torch_add_rms_norm), "torch's own operation"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("norm", BACKENDS, site, wanted)
