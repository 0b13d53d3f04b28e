"""The points at which something can hook into the training loop."""

from __future__ import annotations

from megabiomed.data.loader import StepBatch
from megabiomed.processes.signals import Request
from megabiomed.runs.training import Ending, Step, Training


class Hook:
    """One concern of a training, called at these points in the order of `standard_hooks`. Every method does nothing here.

    All ranks call all hooks, so that a hook may communicate; what it decides must then be the same on every rank.
    A start of n steps calls: at_start; n times (before_step, check_step, after_step), with between_steps between two of
    them; on_leave; at_end. An exception ends the run as failed, and nothing more is called.
    """

    def at_start(self, training: Training) -> None:
        """Before the first step of this start. `training.step` tells a fresh run (0) from one that goes on."""

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """The batch is known, nothing of it was computed."""

    def check_step(self, training: Training, step: Step) -> None:
        """The step was computed and does not count yet; raise to refuse it, `RewindAsked` to refuse those before it too."""

    def after_step(self, training: Training, step: Step) -> None:
        """The step counts: `training.position` is behind it."""

    def between_steps(self, training: Training, asked: Request) -> None:
        """Another step follows in this start.

        Args:
            asked: what an operator wants, agreed among the ranks; never to leave.
        """

    def on_leave(self, training: Training) -> None:
        """No step follows in this start. First of all, what must not be lost is made safe."""

    def at_end(self, training: Training, ending: Ending) -> None:
        """Everything is safe; what is left is to measure and to report."""
