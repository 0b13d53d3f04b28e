"""Learning rate and run length as pure functions of the configuration, so that a resume restores nothing."""

from __future__ import annotations

import math

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.config.optimizers import SCHEDULES


def total_steps(config: RunConfig, samples_per_epoch: int, step: int = 0, sample: int = 0) -> int:
    """Optimizer steps of the run, those that are done included; epochs are rounded up to whole global batches.

    Args:
        step, sample: steps done and samples consumed so far. Epochs are samples: a start with another global batch size
            trains those that are left, in other steps.
    """
    if config.train.steps is not None:
        return config.train.steps
    left = _samples(config, samples_per_epoch) - sample
    return max(1, step + max(0, math.ceil(left / config.data.global_batch_size)))


def learning_rate_at(config: RunConfig, samples_per_epoch: int, step: int, sample: int) -> float:
    """Rate of the next step after `step` steps and `sample` samples.

    Under `train.epochs` the decay follows the samples, so that another global batch size goes on with the same curve.
    """
    if config.train.steps is not None:
        return learning_rate(step, config.train.steps, config.optimizer)
    batch = config.data.global_batch_size
    total = max(1, math.ceil(_samples(config, samples_per_epoch) / batch))
    return learning_rate(step, total, config.optimizer, sample / batch)


def _samples(config: RunConfig, samples_per_epoch: int) -> int:
    assert config.train.epochs is not None
    return math.ceil(config.train.epochs * samples_per_epoch)


def learning_rate(step: int, total: int, optimizer: OptimizerConfig, place: float | None = None) -> float:
    """Rate of step `step` (0-based): linear warm-up to `lr`, then decay to `lr * min_lr_ratio` at the last step.

    Args:
        place: where the step lies between 0 and `total`; None: at `step`. Warm-up that is given in steps counts steps.
    """
    place = step if place is None else place
    warmup, warmed = optimizer.warmup_steps, float(step)
    if warmup is None:
        warmup, warmed = math.ceil(optimizer.warmup_ratio * total), place
    if warmed < warmup:
        # + 1: the first step moves already, at lr / warmup.
        return optimizer.lr * (warmed + 1) / warmup
    # The last step, number total - 1, has the final rate.
    done = min(1.0, max(0.0, (place - warmup) / max(1, total - 1 - warmup)))
    floor = optimizer.min_lr_ratio
    return optimizer.lr * (floor + (1 - floor) * SCHEDULES.find(optimizer.schedule)(done))
