"""Learning rate and run length as pure functions of the configuration, so that a resume restores nothing."""

from __future__ import annotations

import math

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.config.optimizers import SCHEDULES


def total_steps(config: RunConfig, samples_per_epoch: int) -> int:
    """Optimizer steps of the run; epochs are rounded up to whole global batches."""
    if config.train.steps is not None:
        return config.train.steps
    assert config.train.epochs is not None
    return max(1, math.ceil(config.train.epochs * samples_per_epoch / config.data.global_batch_size))


def learning_rate(step: int, total: int, optimizer: OptimizerConfig) -> float:
    """Rate of step `step` (0-based): linear warm-up to `lr`, then decay to `lr * min_lr_ratio` at the last step."""
    warmup = optimizer.warmup_steps
    if warmup is None:
        warmup = math.ceil(optimizer.warmup_ratio * total)
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, total - 1 - warmup))
    floor = optimizer.min_lr_ratio
    return optimizer.lr * (floor + (1 - floor) * SCHEDULES.find(optimizer.schedule)(done))
