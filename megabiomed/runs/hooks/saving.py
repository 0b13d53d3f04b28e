"""Checkpoints: at intervals, when an operator asks, and before the run leaves."""

from __future__ import annotations

import time
from collections.abc import Callable

from megabiomed.processes.signals import Request
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Training


class Saving(Hook):
    """Saves when it is due. Between the steps the training waits for the copy to host memory alone.

    "save" is an event after the commit: what the events speak of can be resumed from.

    Args:
        check: looks at what is about to be saved; collective.
    """

    def __init__(self, check: Callable[[Training], None] = lambda training: None) -> None:
        self._check = check
        self._begun: dict[int, dict[str, float]] = {}

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class."""
        self._tell(training)
        # Asked on every rank and before the request: whether a save is due is a collective.
        if not training.checkpoints.due(training.step) and asked != Request.SAVE:
            return
        self._save(training)
        # The copy is not training time: speed is measured anew from here.
        training.reporter.start_clock()

    def on_leave(self, training: Training) -> None:
        """See the base class; returns when everything is committed.

        Raises:
            SaveError: it is not, after some tries.
        """
        while True:
            training.guard.beat("last save", training.step, long=True)
            self._save(training, last=True)
            pause = training.checkpoints.wait()
            self._tell(training)
            if pause is None:
                return
            time.sleep(pause)

    def _save(self, training: Training, last: bool = False) -> None:
        position, began = training.position, time.monotonic()
        self._check(training)
        held = (position.step, position.progress, position.tokens)
        if not training.checkpoints.save(*held, last, position.health.record()):
            return
        pause = round(time.monotonic() - began, 3)
        # A step that is asked for twice is copied once; its pause is that of the first call.
        self._begun.setdefault(position.step, {"sample": position.progress.next_sample, "pause_s": pause})

    def _tell(self, training: Training) -> None:
        for step in training.checkpoints.committed():
            training.reporter.event("save", step=step, **self._begun.pop(step))
        for failure in training.checkpoints.failures():
            self._begun.pop(failure["step"], None)
            training.reporter.event("save_failed", **failure)
            training.reporter.say(
                f"warning: step {failure['step']} was not saved: {failure['error']}; tried again in "
                f"{failure['again_s']:.0f} s; at risk: {failure['at_risk']} steps since the newest checkpoint"
            )
