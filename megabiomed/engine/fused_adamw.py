"""AdamW as the engines step it: unscaled gradients in, clipped, stepped and cast for the next forward in one pass.

torch's optimizers know neither the global norm nor the compute weights, so engines clip before them and copy after them. This
one reads the factor of the gradients on the device, which leaves the host without anything to wait for, and writes the copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from megabiomed.config import RunConfig
from megabiomed.config.optimizers import ADAMW, ParameterGroup
from megabiomed.kernels import adamw
from megabiomed.kernels.adamw import Rule, Shard, Step
from megabiomed.kernels.dispatch import site_on
from megabiomed.processes import platform


class FusedAdamW(torch.optim.Optimizer):
    """AdamW with the state of torch's: `exp_avg`, `exp_avg_sq`, `step`, the last on the host, where it is read.

    Attributes:
        read_scale: gives the factor of all gradients, [] or [1] fp32 on their device, NaN for "no step"; called in every step.
        copies: by master, the flat compute weights that a step makes from it; masters without one are the weights.
    """

    def __init__(self, groups: list[ParameterGroup], config: RunConfig) -> None:
        settings = config.optimizer
        defaults = {"lr": settings.lr, "betas": (settings.beta1, settings.beta2), "eps": settings.eps}
        super().__init__(cast(Any, groups), {**defaults, "weight_decay": 0.0})
        site = site_on(platform.device(), torch.float32, 0)
        self._step: Step = adamw.choice(site, config.kernels.adamw).function
        self.read_scale: Callable[[], Tensor] = _no_scale
        self.copies: dict[Tensor, Tensor] = {}
        self._counted: dict[Tensor, Tensor] = {}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Step every parameter that has a gradient; gradients are not changed."""
        scale = self.read_scale().reshape(1)
        for group, parameter in self._with_gradients():
            state = self.state[parameter]
            state["step"] += 1
            self._counted[parameter] = state["step"]
            gradient, moments = (
                _local(parameter.grad).reshape(-1),
                (_flat(state["exp_avg"]), _flat(state["exp_avg_sq"])),
            )
            shard = Shard(_flat(parameter), gradient, *moments, self.copies.get(parameter))
            rule = Rule(group["lr"], group["betas"], group["eps"], group["weight_decay"], int(state["step"]))
            self._step(shard, rule, scale)

    def begin_step(self) -> None:
        """Before the calls of `step` that make one step of the run; an engine may call it for every group."""
        self._counted.clear()

    def forget_step(self) -> None:
        """Count the last step no more: its scale was NaN, which the host learned later than the device."""
        for count in self._counted.values():
            count.sub_(1)
        self._counted.clear()

    def _with_gradients(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield group, parameter


def optimizer_of(groups: list[ParameterGroup], config: RunConfig) -> torch.optim.Optimizer:
    """The optimizer of a run's trained parameters."""
    return (
        FusedAdamW(groups, config)
        if steps_in_one_pass(config)
        else config.optimizer.rule.build(groups, config.optimizer)
    )


def steps_in_one_pass(config: RunConfig) -> bool:
    """Whether the optimizer of a run clips and casts too. Offloaded masters are on the host, where torch steps them."""
    return config.optimizer.rule is ADAMW and not config.parallel.offload_optimizer


def clip_scale(norm: Tensor, max_norm: float, *, inverted: bool = False) -> Tensor:
    """Factor that brings a gradient of this global norm to at most `max_norm` (0 = off).

    Args:
        norm: [] on any device, fp32 or fp64.
        inverted: round as 1 / max((norm + 1e-6) / max_norm, 1), which is DeepSpeed's order in ZeRO-2 and 3, instead of
            min(max_norm / (norm + 1e-6), 1), which is torch's.

    Returns:
        [] fp32; NaN where the norm is negative (DeepSpeed's sign of an overflow) or not finite.
    """
    if max_norm <= 0:
        scale = torch.ones_like(norm)
    elif inverted:
        scale = 1.0 / ((norm + 1e-6) / max_norm).clamp(min=1.0)
    else:
        scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    # Cast last: ZeRO-3's norm is fp64, and a norm that is rounded before the division gives other bits.
    return scale.masked_fill(~(torch.isfinite(norm) & (norm >= 0)), math.nan).float()


def _no_scale() -> Tensor:
    return torch.ones(1, device=platform.device())


def _flat(tensor: Tensor) -> Tensor:
    """View of what this rank holds, which a step writes into."""
    return _local(tensor).view(-1)


def _local(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return (cast(Tensor, tensor.to_local()) if isinstance(tensor, DTensor) else tensor).detach()
