"""Learning rate and run length as pure functions of the configuration, so that a resume restores nothing."""

from __future__ import annotations

import math

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.config.optimizers import SCHEDULES, cosine


def total_steps(config: RunConfig, samples_per_epoch: int, step: int | None = None, sample: int = 0) -> int:
    """Optimizer steps of the run, those that are done included; epochs are rounded up to whole global batches.

    Args:
        step, sample: steps done and samples consumed so far; None: those before the run began. Epochs are samples: a start
            with another global batch size trains those that are left, in other steps.
    """
    if config.train.steps is not None:
        return config.train.steps
    step = config.train.first_step if step is None else step
    left = _samples(config, samples_per_epoch) - sample
    # A run that has read all its samples still has the steps that it has done.
    return max(1, step + max(0, math.ceil(left / config.data.global_batch_size)))


def learning_rate_at(config: RunConfig, samples_per_epoch: int, step: int, sample: int) -> float:
    """Rate of the next step after `step` steps and `sample` samples.

    Under `train.epochs` the decay follows the samples, so that another global batch size goes on with the same curve.
    """
    first = config.train.first_step  # samples count from there
    if config.train.steps is not None:
        return learning_rate(step - first, config.train.steps - first, config.optimizer)
    batch = config.data.global_batch_size
    total = max(1, math.ceil(_samples(config, samples_per_epoch) / batch))
    return learning_rate(step - first, total, config.optimizer, sample / batch)


def _samples(config: RunConfig, samples_per_epoch: int) -> int:
    assert config.train.epochs is not None
    return math.ceil(config.train.epochs * samples_per_epoch)


def learning_rate(step: int, total: int, optimizer: OptimizerConfig, place: float | None = None) -> float:
    """Rate of step `step` (0-based): linear warm-up to `lr`, then decay to `lr * min_lr_ratio` at the last step.

    With `decay_steps` the rate stays between the two, and depends on `total` in the last `decay_steps` steps alone.

    Args:
        place: where the step lies between 0 and `total`; None: at `step`. Warm-up that is given in steps counts steps.
    """
    place = step if place is None else place
    warmup, warmed = warmup_steps(total, optimizer), float(step)
    if optimizer.warmup_steps is None:
        warmed = place
    if warmed < warmup:
        # + 1: the first step moves already, at lr / warmup.
        return optimizer.lr * (warmed + 1) / warmup
    if optimizer.decay_steps is None:
        # The last step, number total - 1, has the final rate.
        begin, stable = warmup, 1.0
        done = (place - begin) / max(1, total - 1 - begin)
    else:
        # The first step of the decay is below the stable rate already, the last one has the final rate.
        begin = decay_begin(total, optimizer)
        stable = _stable(min(place, begin) - warmup, optimizer)
        done = (place - begin + 1) / (total - begin) if begin < total else 0.0
    shape, floor = SCHEDULES.find(optimizer.schedule), optimizer.min_lr_ratio
    return optimizer.lr * (floor + (stable - floor) * shape(min(1.0, max(0.0, done))))


def _stable(after: float, optimizer: OptimizerConfig) -> float:
    """Share of the peak this many steps after warm-up, without a decay."""
    if not optimizer.cooldown_steps:
        return 1.0
    low = optimizer.stable_ratio
    return low + (1 - low) * cosine(min(1.0, max(0.0, after / optimizer.cooldown_steps)))


def warmup_steps(total: int, optimizer: OptimizerConfig) -> int:
    """Steps of warm-up of a schedule of `total` steps."""
    given = optimizer.warmup_steps
    return math.ceil(optimizer.warmup_ratio * total) if given is None else given


def decay_begin(total: int, optimizer: OptimizerConfig) -> int:
    """Step of a schedule of `total` steps at which the decay begins: after warm-up at the earliest."""
    warmup = warmup_steps(total, optimizer)
    return warmup if optimizer.decay_steps is None else max(warmup, total - optimizer.decay_steps)


def describe_schedule(config: RunConfig, total: int) -> str:
    """One line for the operator: the rate at the steps where the schedule bends.

    Args:
        total: steps of the run, those before `train.first_step` included.
    """
    optimizer, first = config.optimizer, config.train.first_step
    length = total - first
    warmup, begin = warmup_steps(length, optimizer), decay_begin(length, optimizer)
    # Where the schedule bends; a phase that does not exist falls on the next one.
    bends = {0, warmup, min(warmup + optimizer.cooldown_steps, begin), begin, length - 1}
    rates = [
        f"{learning_rate(step, length, optimizer):.3g} at step {first + step + 1:,}"
        for step in sorted(bends) if 0 <= step < length
    ]  # fmt: skip
    scales = "".join(f"; {pattern} x {factor:g}" for pattern, factor in optimizer.lr_scales.items())
    return f"learning rate: {', '.join(rates)} ({optimizer.schedule} decay){scales}"
