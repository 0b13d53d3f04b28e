"""Tells the hang guard that this rank advances, and sets the time limits once steps are measured."""

from __future__ import annotations

import time

import torch
import torch.distributed as dist

from megabiomed.config.time_limits import time_limits
from megabiomed.data.loader import StepBatch
from megabiomed.processes import platform
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Ending, Step, Training

MEASURED = 5
"""Steps by which the limits are set, the first one of a start left out: it compiles kernels."""


class Heartbeat(Hook):
    """A beat for each step. What takes longer than a step (a validation, a save) beats for itself."""

    def __init__(self) -> None:
        self._advanced = False
        self._began = 0.0
        self._seconds: list[float] = []

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        if self._advanced:  # the limit of the set-up holds until the first step of this start is done
            training.guard.beat("training step", training.step + 1, batch.sample_ids.tolist())
        self._began = time.monotonic()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class. Collective once in a start, when enough steps were measured."""
        if not self._advanced:
            self._advanced = True
            training.guard.set_limit(time_limits(training.config.train).guard_s)
            return
        if len(self._seconds) == MEASURED:
            return
        self._seconds.append(time.monotonic() - self._began)
        if len(self._seconds) == MEASURED:
            self._set_limits(training)

    def _set_limits(self, training: Training) -> None:
        # The same limits everywhere: a collective of one rank must not give up before the guard of another.
        slowest = torch.tensor(max(self._seconds), device=platform.device())
        dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
        limits = time_limits(training.config.train, float(slowest))
        training.guard.set_limit(limits.guard_s)
        platform.limit_collectives(limits.collective_s)
        guard = f"the hang guard speaks after {limits.guard_s:.0f} s" if limits.guard_s else "no hang guard"
        training.reporter.say(
            f"time limits: {guard}, collectives give up after {limits.collective_s:.0f} s "
            f"(slowest of {MEASURED} steps: {float(slowest):.2f} s)"
        )

    def at_end(self, training: Training, ending: Ending) -> None:
        """See the base class."""
        training.guard.close()
