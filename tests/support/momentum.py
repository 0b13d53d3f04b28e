"""An optimizer and a schedule from outside the package: what a user writes to add their own."""

from __future__ import annotations

import torch

from megabiomed.config import OptimizerConfig
from megabiomed.config.optimizers import Optimizer, ParameterGroup


def _sgd(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.beta1)


MOMENTUM = Optimizer(("momentum_buffer",), _sgd)


def root(done: float) -> float:
    """Falls slowly at first."""
    return (1 - done) ** 0.5
