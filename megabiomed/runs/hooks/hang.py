"""Tells the hang guard that this rank advances."""

from __future__ import annotations

from megabiomed.data.loader import StepBatch
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, Training


class Heartbeat(Hook):
    """A beat for each step. What takes longer than a step (a validation, a save) beats for itself."""

    def __init__(self) -> None:
        self._advanced = False

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        if self._advanced:  # the limit of the set-up holds until the first step of this start is done
            training.guard.beat("training step", training.step + 1, batch.sample_ids.tolist())
        self._advanced = True

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        training.guard.close()
