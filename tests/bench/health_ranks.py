"""Ranks that stop or become slow: what happens in the ranks, and the side that stops them and reads what the others say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from bench.health_plan import Plan
from megabiomed.processes import hang
from megabiomed.processes.hang_page import suspects, write_page
from megabiomed.processes.signals import CONTROL
from megabiomed.runs.hooks import Hook
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Step, Training

_POLL_S = 0.005
_PATIENCE_S = 60.0


class Stopped(Hook):
    """A rank that others stop. Its hang guard is the real one with scaled times, and goes on where it would end the process.

    A process that ends would cost a start for each event.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._file = -1
        self._guard: hang.HangGuard | None = None

    def into(self, trainer: Trainer) -> None:
        """See `health_worker.Injection`."""
        rank, self._guard = trainer.mesh.rank, trainer.guard
        (self._plan.place / f"pid_{rank}").write_text(str(os.getpid()))
        self._file = os.open(self._plan.place / f"step_{rank}", os.O_CREAT | os.O_RDWR)
        hang._SETTLE_S, hang._AWAY_S = 0.0, trainer.config.train.hang_timeout_s / 3  # type: ignore[operator]
        hang.os = SimpleNamespace(environ=os.environ, _exit=self._spoken)  # type: ignore[assignment]
        trainer.hooks.append(self)

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class. The other side sees how far this rank is."""
        os.pwrite(self._file, step.number.to_bytes(8, "little"), 0)

    def found(self) -> dict[str, Any]:
        """See `health_worker.Injection`."""
        return {}

    def _spoken(self, code: int) -> None:
        assert self._guard is not None
        self._guard._deadline += _PATIENCE_S  # the next step sets it anew


class Stopper:
    """Stops one rank after another of a group, and looks whether the page of the others names it."""

    def __init__(self, plan: Plan, limit_s: float) -> None:
        self._plan, self._limit_s = plan, limit_s
        self._logs = plan.place / "logs"

    def run(self, events: int) -> dict[str, Any]:
        """Figures of so many events; the run is asked to end after them."""
        self._until(lambda: min(self._steps()) >= 10)
        named, alarms = 0, 0
        seconds = []
        for number in range(events):
            dice = self._plan.dice(number)
            time.sleep(dice.uniform(0, 0.05))
            alarms += bool(self._reports())
            took = self._stop(dice.randrange(self._plan.world))
            named += took is not None
            seconds += [] if took is None else [took]
        control = self._plan.place / CONTROL
        control.mkdir(exist_ok=True)
        (control / "end").touch()
        return {"found": named, "alarms": alarms, "seconds": seconds}

    def _stop(self, rank: int) -> float | None:
        """Seconds until the page named this rank alone; None where it did not."""
        pid = int((self._plan.place / f"pid_{rank}").read_text())
        others = {other for other in range(self._plan.world) if other != rank}
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            spoke = self._until(lambda: self._reports() >= others, 20 * self._limit_s)
            took = time.monotonic() - began
            page = write_page(self._logs, self._plan.world)
            said = suspects(page) if page else ""
        finally:
            os.kill(pid, signal.SIGCONT)
        before = self._steps()
        self._until(lambda: all(now > then + 1 for now, then in zip(self._steps(), before)))
        right = spoke and said.count("no answer") == 1 and f"rank {rank}: no answer" in said
        right = right and self._reports() == others  # who woke up does not accuse itself
        for file in self._logs.glob("hang*"):
            file.unlink()
        return took if right else None

    def _reports(self) -> set[int]:
        return {int(file.stem.removeprefix("hang_rank_")) for file in self._logs.glob("hang_rank_*.json")}

    def _steps(self) -> list[int]:
        files = [self._plan.place / f"step_{rank}" for rank in range(self._plan.world)]
        return [int.from_bytes(file.read_bytes(), "little") if file.exists() else 0 for file in files]

    @staticmethod
    def _until(holds: Callable[[], bool], limit_s: float = _PATIENCE_S) -> bool:
        deadline = time.monotonic() + limit_s
        while not holds():
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_S)
        return True


class Slowed(Hook):
    """One rank computes slower for some steps: it waits in each of them, as a device at a lower clock does."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        settings = plan.settings or {}
        self._more_s, self._for = settings["more_s"], int(settings["for_steps"])

    def into(self, trainer: Trainer) -> None:
        """See `health_worker.Injection`."""
        trainer.hooks.append(self)

    def at_start(self, training: Training) -> None:
        """See the base class."""
        pipeline, rank = training.module.engine.pipeline, training.mesh.rank
        original = pipeline.run

        def run(*arguments: Any) -> Any:
            result = original(*arguments)
            if self._struck(training.step + 1) == rank:
                time.sleep(self._more_s)
            return result

        pipeline.run = run  # type: ignore[method-assign]

    def found(self) -> dict[str, Any]:
        """See `health_worker.Injection`."""
        return {}

    def _struck(self, step: int) -> int | None:
        """The rank that is slow in a step."""
        for first in self._plan.at:
            if first <= step < first + self._for:
                return self._plan.dice(first).randrange(self._plan.world)
        return None
