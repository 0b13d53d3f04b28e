"""What is measured on the model in training: before the first step, at intervals and at the end."""

from __future__ import annotations

from abc import ABC, abstractmethod

from megabiomed.processes import messages
from megabiomed.processes.signals import Request
from megabiomed.runs.history import was_measured
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, LeaveAsked, Training


class Measurement(Hook, ABC):
    """Measures at the start and every so many steps, and when the run finishes. Disturbs neither data order nor state.

    A request to leave is heard between its batches. The next start makes up for a measurement that was due at the step
    where the one before stopped.

    Attributes:
        kind: what its figures begin with in metrics.jsonl.
    """

    kind: str

    @abstractmethod
    def every(self, training: Training) -> int:
        """Steps between measurements; 0 measures at the end alone."""

    @abstractmethod
    def measure(self, training: Training) -> None:
        """Measure and report. Collective.

        Raises:
            LeaveAsked: on all ranks, when the run is to be left before it is through.
        """

    def goes_on(self, training: Training) -> None:
        """This rank advances, and goes on unless the ranks were asked to leave. Collective.

        Raises:
            LeaveAsked: they were.
        """
        training.guard.beat(self.kind, training.step)
        asked = training.leave()
        if asked >= Request.STOP:
            raise LeaveAsked(asked)

    def at_start(self, training: Training) -> None:
        """See the base class."""
        if not self._due(training) or (training.step and self._measured(training)):
            return
        try:
            self.measure(training)
        except LeaveAsked:
            # Before the first step of a run there is no state to save: it leaves after that step.
            if training.step:
                raise

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class."""
        if self._due(training):
            self.measure(training)

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        # A stopped run goes on later and is measured at its own end.
        if ending.outcome != "finished":
            return
        try:
            self.measure(training)
        except LeaveAsked:
            training.reporter.say(f"{self.kind} after the last step was broken off: the run was asked to leave")
            training.reporter.event(
                "warning", what=f"{self.kind} after the last step was broken off", step=training.step
            )

    def _due(self, training: Training) -> bool:
        every = self.every(training)
        return bool(every) and training.step % every == 0

    def _measured(self, training: Training) -> bool:
        return bool(messages.from_first(lambda: was_measured(training.config.folder, training.step, self.kind)))
