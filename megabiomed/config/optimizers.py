"""Optimizers and learning-rate schedules by name: what `optimizer.kind` and `optimizer.schedule` may say.

A user's own is named `package.module:attribute`, an `Optimizer` or a function like those below. Everything that depends on
what an optimizer keeps (checkpoints, memory, resuming) is derived from its entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megabiomed.ground.registry import Registry

if TYPE_CHECKING:
    import torch

    from megabiomed.config.optimization import OptimizerConfig

ParameterGroup = dict[str, object]
"""torch's: `params` and what is different for them, here `weight_decay` and `lr_scale`."""


@dataclass(frozen=True)
class Optimizer:
    """An update rule, stepped element by element, so that any part of a parameter can be stepped on its own.

    Attributes:
        moments: names of what it keeps per element, in torch's `optimizer.state[parameter]` and in checkpoints: fp32 tensors
            like the parameter, which start at 0.
        build: the torch optimizer over groups of parameters, by the numbers of the configuration.
        counts_steps: whether it also keeps the number of steps, as `state[parameter]["step"]`, a fp32 tensor.
    """

    moments: tuple[str, ...]
    build: Callable[[list[ParameterGroup], OptimizerConfig], torch.optim.Optimizer]
    counts_steps: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """What a checkpoint holds of each trained tensor: the fp32 master weight and the moments."""
        return ("param", *self.moments)

    @property
    def moment_bytes(self) -> int:
        """Bytes per parameter of the moments."""
        return 4 * len(self.moments)


def _adamw(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    """torch's AdamW, one pass over memory."""
    # Not at the top: a configuration is read in milliseconds, torch takes seconds.
    import torch

    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


ADAMW = Optimizer(("exp_avg", "exp_avg_sq"), _adamw, counts_steps=True)

OPTIMIZERS: Registry[Optimizer] = Registry(
    "optimizer",
    {"adamw": f"{__name__}:ADAMW"},
    lambda held: isinstance(held, Optimizer),
    "an instance of megabiomed.config.optimizers.Optimizer",
)

Schedule = Callable[[float], float]
"""From the share of the decay that is done, 0 to 1, to the share of the peak above the final rate, 1 to 0."""


def cosine(done: float) -> float:
    """Half a wave."""
    return 0.5 * (1 + math.cos(math.pi * done))


def linear(done: float) -> float:
    """A straight line."""
    return 1 - done


def one_minus_sqrt(done: float) -> float:
    """Steep at first (Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations")."""
    return 1 - math.sqrt(done)


def constant(done: float) -> float:
    """The peak to the end, whatever the final rate is."""
    return 1.0


SCHEDULES: Registry[Schedule] = Registry(
    "learning-rate schedule",
    {
        **{name: f"{__name__}:{name}" for name in ("cosine", "linear", "constant")},
        "1-sqrt": f"{__name__}:one_minus_sqrt",
    },
    callable,
    "a function from the share of the decay that is done to a share of the peak",
)
