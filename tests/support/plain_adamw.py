"""torch's AdamW as an optimizer from outside the package: clip, step and cast are passes of their own again."""

from __future__ import annotations

import torch

from megabiomed.config import OptimizerConfig
from megabiomed.config.optimizers import Optimizer, ParameterGroup


def _adamw(groups: list[ParameterGroup], config: OptimizerConfig) -> torch.optim.Optimizer:
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


PLAIN = Optimizer(("exp_avg", "exp_avg_sq"), _adamw, counts_steps=True)
