"""AdamW (Loshchilov & Hutter 2019) on one flat shard: unscale and clip, update, cast for the next forward, in one pass.

The engines step with torch's fused AdamW; they will take this one where a GPU has shown it to be faster (docs/kernels.md),
so no key of the configuration names it. It moves 30 bytes per parameter with fp32 gradients (28 with bf16): gradient, master
and two moments read, master, moments and bf16 copy written. Clip, step and cast one after another move 42.
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
        copy: what forward reads, in the model's type.
    """

    master: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor
    copy: Tensor


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


def adamw_step(shard: Shard, rule: Rule, scale: Tensor, backend: str = AUTO) -> None:
    """Update a shard in place.

    Args:
        scale: [1] fp32 on the shard's device, factor of the gradient (clipping and loss scale). The device reads it, so
            the host does not wait for the norm.
        backend: "auto" or one of `BACKENDS`.
    """
    step: Step = choice(site_of(shard.master), backend).function
    step(shard, rule, scale)


def reference(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """The definition in plain torch, in the type of the master."""
    (beta1, beta2), (correct1, correct2) = rule.betas, rule.corrections
    gradient = shard.gradient.to(shard.master.dtype) * scale.to(shard.master.dtype)
    shard.first.mul_(beta1).add_(gradient, alpha=1.0 - beta1)
    shard.second.mul_(beta2).addcmul_(gradient, gradient, value=1.0 - beta2)
    shard.master.mul_(1.0 - rule.lr * rule.weight_decay)
    shard.master.addcdiv_(shard.first / correct1, (shard.second / correct2).sqrt_().add_(rule.eps), value=-rule.lr)
    shard.copy.copy_(shard.master)


def torch_step(shard: Shard, rule: Rule, scale: Tensor) -> None:
    """torch's fused kernel, with a pass before it for the scale and one after it for the copy."""
    gradient = shard.gradient.float() * scale
    count = torch.tensor(float(rule.count), device=scale.device)
    beta1, beta2 = rule.betas
    options = {"lr": rule.lr, "beta1": beta1, "beta2": beta2, "weight_decay": rule.weight_decay, "eps": rule.eps}
    state = ([shard.first], [shard.second])
    torch._fused_adamw_([shard.master], [gradient], *state, [], [count], **options, amsgrad=False, maximize=False)
    shard.copy.copy_(shard.master)


def _triton() -> Step:
    from megabiomed.kernels.triton import adamw as kernels

    return kernels.adamw_step


BACKENDS = (
    Backend("triton", needs_triton, _triton, "one pass", forced_only="not measured on a GPU yet"),
    Backend("torch", serves_all, lambda: torch_step, "torch's fused kernel between two passes, as the engines step"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("adamw", BACKENDS, site, wanted)
