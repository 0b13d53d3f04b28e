"""SwiGLU (Shazeer 2020): silu(gate) * up of one buffer that holds both halves, with one buffer for both gradients."""

from __future__ import annotations

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


def swiglu(gate_up: Tensor, backend: str = AUTO) -> Tensor:
    """silu(gate) * up.

    Args:
        gate_up: [..., 2 i], gate in the first half, any stride.

    Returns:
        [..., i] in the same type.
    """
    return cast(Tensor, choice(site_of(gate_up), backend).function(gate_up))


def reference(gate_up: Tensor) -> Tensor:
    """The definition in plain torch."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class _CpuSwiGLU(torch.autograd.Function):
    """Writes both gradients into one buffer, which saves autograd's copies.

    silu(gate) is kept for backward: on a CPU reading it costs less than computing its exponentials again.
    """

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = F.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, dh: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gradient = torch.empty_like(gate_up)
        (gate, up), (dgate, dup) = gate_up.chunk(2, dim=-1), gradient.chunk(2, dim=-1)
        torch.mul(dh, activated, out=dup)
        torch.mul(dh, up, out=dgate)
        torch.ops.aten.silu_backward.grad_input(dgate, gate, grad_input=dgate)
        return gradient


def cpu_swiglu(gate_up: Tensor) -> Tensor:
    """SwiGLU with a hand-written backward."""
    return cast(Tensor, _CpuSwiGLU.apply(gate_up))


def _triton() -> Any:
    from megabiomed.kernels.triton import swiglu as kernels

    return kernels.swiglu


BACKENDS = (
    Backend("cpu", needs_cpu, lambda: cpu_swiglu, "hand-written backward, one gradient buffer"),
    Backend("triton", needs_triton, _triton, "one pass each way"),
    Backend("torch", serves_all, lambda: reference, "torch's own operations"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("swiglu", BACKENDS, site, wanted)
