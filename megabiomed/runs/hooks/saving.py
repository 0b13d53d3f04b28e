"""Checkpoints: at intervals, when an operator asks, and before the run leaves."""

from __future__ import annotations

import time

from megabiomed.processes.signals import Request
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Training


class Saving(Hook):
    """Saves when it is due. Between the steps the training waits for the copy to host memory alone."""

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class.

        Raises:
            SaveError: the save before this one failed.
        """
        # Asked on every rank and before the request: whether a save is due is a collective.
        if not training.checkpoints.due(training.step) and asked != Request.SAVE:
            return
        began = time.monotonic()
        self._save(training)
        pause = round(time.monotonic() - began, 3)
        sample = training.position.progress.next_sample
        training.reporter.event("save", step=training.step, sample=sample, pause_s=pause)
        training.reporter.start_clock()

    def on_leave(self, training: Training) -> None:
        """See the base class; returns when everything is committed."""
        training.guard.beat("last save", training.step)
        self._save(training)
        training.checkpoints.wait()

    def _save(self, training: Training) -> None:
        position = training.position
        training.checkpoints.save(position.step, position.progress, position.tokens)
