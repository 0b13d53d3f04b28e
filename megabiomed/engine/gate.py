"""Whether the update of a step is applied: decided on the device, before it, and in the same way on every rank.

The host gives limits before a step and reads loss and norm after it, which it does anyway; in between it waits for nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.processes import platform


@dataclass(frozen=True)
class Limits:
    """Largest loss and gradient norm of a step whose update is applied; infinite: any finite one."""

    loss: float = math.inf
    grad_norm: float = math.inf


@dataclass(frozen=True)
class Verdict:
    """What all ranks agree on about a step. Figures that are not finite are infinite here."""

    loss: float
    grad_norm: float
    applied: bool


class UpdateGate:
    """Refuses the updates of steps that are not finite or above the limits.

    Ranks may have norms that differ in the last bit, because their groups sum in another order. The largest of all ranks
    counts, so that no rank applies an update that another one refuses.

    Attributes:
        limits: of the next step; None: nothing is refused here, and nothing is agreed on.
    """

    def __init__(self) -> None:
        self.limits: Limits | None = None
        self._loss: Tensor | None = None
        self._more: Tensor | None = None
        self._refused: Tensor | None = None
        self._figures: platform.Later | None = None

    def begin(self, loss: Tensor, more: Tensor | None = None) -> None:
        """Before the optimizers' steps.

        Args:
            loss: mean loss of the global batch, [], or 0 on ranks that do not know it.
            more: gradient norm of parameters that other optimizers step, []; 0 on ranks that do not know it.
        """
        self._loss, self._more = loss, more
        self._refused, self._figures = None, None

    def refused(self, norm: Tensor | float) -> Tensor:
        """Whether the update is refused, [] bool on the device. Collective over the world at the first call of a step.

        Args:
            norm: global gradient norm, [] fp32 or fp64; negative and NaN count as infinite.
        """
        if self._refused is not None:
            return self._refused
        assert self.limits is not None
        assert self._loss is not None
        device = platform.device()
        more = torch.zeros((), device=device) if self._more is None else self._more
        parts = [self._loss, torch.as_tensor(norm), more]
        figures = torch.stack([part.detach().to(device, torch.float64).reshape(()) for part in parts])
        # NCCL's maximum of NaN and a number may be the number.
        figures = figures.masked_fill(~figures.isfinite(), math.inf)
        figures[1:].masked_fill_(figures[1:] < 0, math.inf)  # DeepSpeed's sign of a norm that is not finite
        dist.all_reduce(figures, op=dist.ReduceOp.MAX)
        total = torch.stack([figures[0], torch.linalg.vector_norm(figures[1:])])
        above = [total[0] > self.limits.loss, total[1] > self.limits.grad_norm]
        self._refused = above[0] | above[1] | ~total.isfinite().all()
        self._figures = platform.Later(torch.cat([total, self._refused.double().reshape(1)]))
        return self._refused

    def scaled(self, scale: Tensor, norm: Tensor) -> Tensor:
        """The factor of the gradients, [] fp32; NaN, at which the optimizer changes nothing, where the update is refused."""
        return scale if self.limits is None else scale.masked_fill(self.refused(norm), math.nan)

    def allows(self, norm: Tensor | float) -> bool:
        """Whether the update is applied, for optimizers that the host starts, which waits for the answer."""
        if self.limits is None:
            return True
        self.refused(norm)
        verdict = self.verdict()
        return verdict is not None and verdict.applied

    def verdict(self) -> Verdict | None:
        """What the ranks agreed on in this step; None without limits. The host waits as it does for the norm."""
        if self._figures is None:
            return None
        loss, norm, refused = self._figures.read_all()
        return Verdict(loss, norm, not refused)


def before_step(optimizer: torch.optim.Optimizer, work: Callable[[], None]) -> None:
    """Do some work before each step of an optimizer."""
    step = optimizer.step

    def work_and_step(*args: Any, **kwargs: Any) -> Any:
        work()
        return step(*args, **kwargs)

    optimizer.step = work_and_step


def guard_step(optimizer: torch.optim.Optimizer, allowed: Callable[[], bool]) -> None:
    """Let an optimizer step only while `allowed()`; it is asked in every step."""
    step = optimizer.step

    def step_if_allowed(*args: Any, **kwargs: Any) -> Any:
        return step(*args, **kwargs) if allowed() else None

    optimizer.step = step_if_allowed
