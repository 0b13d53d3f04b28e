"""AdamW (Loshchilov & Hutter 2019) on one flat shard: unscale and clip, update, cast for the next forward, in one pass.

The engines step with it (`engine.fused_adamw`). It moves 30 bytes per parameter with fp32 gradients (28 with bf16): gradient,
master and two moments read, master, moments and bf16 copy written. Clip, step and cast one after another move 42.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from megabiomed.kernels.dispatch import AUTO, Backend, Choice, Site, choose, needs_triton, serves_all, site_of


@dataclass(frozen=True)
class Shard:
    """One rank's flat part of parameters and state, each tensor [n] and contiguous.

    Attributes:
        master: fp32 parameters.
        gradient: fp32 or bf16, never changed.
        first, second: fp32 moments.
        copy: what forward reads, in the model's type; None where it is made elsewhere.
    """

    master: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    copy: Tensor | None


@dataclass(frozen=True)
class Rule:
    """Hyperparameters of one step; `count` is 1 at the first."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    count: int

    @property
    def corrections(self) -> tuple[float, float]:
        """1 - beta^count of both moments."""
        return 1.0 - self.betas[0] ** self.count, 1.0 - self.betas[1] ** self.count


Step = Callable[[Shard, Rule, Tensor], None]
_BLOCK = 1 << 22  # elements


def adamw_step(shard: Shard, rule: Rule, scale: Tensor, backend: str = AUTO) -> None:
    """Update a shard in place.

    Args:
        scale: [1] fp32 on the shard's device, factor of the gradient (clipping and loss scale). The device reads it, so
            the host does not wait for the norm. NaN changes nothing: a step whose gradients are not finite is none.
        backend: "auto" or one of `BACKENDS`.
    """
    step: Step = choice(site_of(shard.master), backend).function
    step(shard, rule, scale)


def reference(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """The definition in plain torch, in the type of the master."""
    if torch.isnan(scale):
        return
    (beta1, beta2), (correct1, correct2) = rule.betas, rule.corrections
    gradient = shard.gradient.to(shard.master.dtype) * scale.to(shard.master.dtype)
    shard.first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
    shard.second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    shard.master.mul_(1.0 - rule.lr * rule.weight_decay)
    shard.master.addcdiv_(shard.first / correct1, (shard.second / correct2).sqrt_().add_(rule.eps), value=-rule.lr)
    if shard.copy is not None:
        shard.copy.copy_(shard.master)


def torch_step(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """torch's fused kernel, with a pass before it for the scale and one after it for the copy."""
    (beta1, beta2), device = rule.betas, shard.master.device
    options = {"lr": rule.lr, "beta1": beta1, "beta2": beta2, "weight_decay": rule.weight_decay, "eps": rule.eps}
    counts, skip = [torch.full((), float(rule.count), device=device)], torch.isnan(scale).float()
    flats = (shard.master, shard.first, shard.second)
    # In blocks, because the scaled gradient is a tensor of its own: whole, it would be a fifth of the optimizer's memory.
    for gradient, *blocks in zip(*(flat.split(_BLOCK) for flat in (shard.gradient, *flats)), strict=True):
        master, first, second = ([block] for block in blocks)
        torch._fused_adamw_(
            master, [gradient.float() * scale], first, second, [], counts,
            **options, amsgrad=False, maximize=False, found_inf=skip,
        )  # fmt: skip
    if shard.copy is not None:
        shard.copy.copy_(shard.master)


def _triton() -> Step:
    from megabiomed.kernels.triton import adamw as kernels

    return kernels.adamw_step


BACKENDS = (
    Backend("triton", needs_triton, _triton, "one pass: 2.03 ms for 202 M parameters on an H100, torch's three 3.21"),
    Backend("torch", serves_all, lambda: torch_step, "torch's fused kernel between two passes"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why. On a CPU Triton would run in its interpreter, so torch comes first."""
    return choose("adamw", BACKENDS[::-1] if site.device == "cpu" else BACKENDS, site, wanted)
