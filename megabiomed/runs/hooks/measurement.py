"""What is measured on the model in training: before the first step, at intervals and at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from megabiomed.processes.signals import Request
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, Training


class Measurement(Hook, ABC):
    """Measures at the start and every so many steps, and when the run finishes. Disturbs neither data order nor state."""

    @abstractmethod
    def every(self, training: Training) -> int:
        """Steps between measurements; 0 measures at the end alone."""

    @abstractmethod
    def measure(self, training: Training) -> None:
        """Measure and report. Collective."""

    def at_start(self, training: Training) -> None:
        """See the base class."""
        # A resumed run was measured at this step before; only a fresh one has no figure yet.
        if training.step == 0 and self.every(training):
            self.measure(training)

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class."""
        every = self.every(training)
        if every and training.step % every == 0:
            self.measure(training)

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        # A stopped run goes on later and is measured at its own end.
        if ending.outcome == "finished":
            self.measure(training)
