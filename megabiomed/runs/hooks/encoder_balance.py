"""How evenly the encoding work of an alignment is dealt to the ranks."""

from __future__ import annotations

from statistics import mean

from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training


class EncoderBalance(Hook):
    """Reports mean and worst of the steps of a window: work of the busiest rank over the mean of the encoding ranks."""

    def __init__(self) -> None:
        self._steps: list[float] = []

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        busiest = getattr(training.module.engine, "busiest", None)
        if not isinstance(busiest, float):  # no encoders
            return
        self._steps.append(busiest)
        if step.number % training.config.train.log_every == 0:
            training.reporter.add(
                {"encoders/busiest_mean": mean(self._steps), "encoders/busiest_worst": max(self._steps)}
            )
            self._steps.clear()
