"""One rank of `make bench-health`: a real run with the hooks of every run, into which a plan's events are injected.

python -m bench.health_worker PLAN.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bench.health_bits import Bits
from bench.health_plan import Plan
from bench.health_ranks import Slowed, Stopped
from bench.health_saves import FailingStorage
from bench.health_steps import BadSteps
from megabiomed.config import RunConfig
from megabiomed.data.loader import StepBatch
from megabiomed.processes import platform
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.hooks import Hook
from megabiomed.runs.pretrain import PretrainRun
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Step, Training


class Injection(Protocol):
    """Puts events into a run; one of its own hooks."""

    def into(self, trainer: Trainer) -> None:
        """Before the run begins."""

    def found(self) -> dict[str, Any]:
        """What this rank saw, when the run has ended."""


INJECTIONS: dict[str, Callable[[Plan], Injection]] = {
    "nan": BadSteps, "garbage": BadSteps, "parameter": Bits, "gradient": Bits, "moment": Bits,
    "disk_full": FailingStorage, "eio": FailingStorage, "stopped": Stopped, "slowed": Slowed,
}  # fmt: skip


class Clock(Hook):
    """Seconds of every step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        self._began = time.perf_counter()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        self.seconds.append(time.perf_counter() - self._began)


class BenchTrainer(Trainer):
    """A run that passes over some samples, and times how long it takes to go back."""

    def __init__(self, config: RunConfig, stop: StopFlag, plan: Plan) -> None:
        super().__init__(PretrainRun(config), stop)
        self.rewinds: list[float] = []
        batch_at = self.loader.batch_at
        # An attribute of the object: the thread that reads ahead asks it, too.
        self.loader.batch_at = lambda first: batch_at(_past(plan.avoid, first))  # type: ignore[method-assign]

    def _rewind(self, training: Training, refused: Step) -> None:
        began = time.perf_counter()
        super()._rewind(training, refused)
        self.rewinds.append(time.perf_counter() - began)


def _past(avoided: tuple[tuple[int, int], ...], sample: int) -> int:
    for first, number in avoided:
        sample += number if sample >= first else 0
    return sample


def work(plan: Plan) -> int:
    """Train and inject; every rank writes what it found into the folder of the run."""

    def act(config: RunConfig, stop: StopFlag) -> str:
        trainer, clock = BenchTrainer(config, stop, plan), Clock()
        injections = [INJECTIONS[plan.kind](plan)] if plan.kind in INJECTIONS else []
        trainer.hooks.insert(0, clock)
        for injection in injections:
            injection.into(trainer)
        outcome = trainer.train()
        found = {"step_s": clock.seconds, "rewind_s": trainer.rewinds}
        for injection in injections:
            found |= injection.found()
        (plan.place / f"found_{trainer.mesh.rank}.json").write_text(json.dumps(found))
        return outcome

    return join(plan.config, act)


if __name__ == "__main__":
    platform.leave(work(Plan.read(Path(sys.argv[1]))))
