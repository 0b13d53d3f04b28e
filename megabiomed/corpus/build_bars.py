"""The progress of a build on the terminal: a bar for each step, and one for the whole build with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import accumulate

from rich.progress import Progress, Task, TimeRemainingColumn
from rich.text import Text

from megabiomed.corpus.pool import OnProgress

COSTS = {
    "clean": 70.0,
    "compare": 0.5,
    "select": 0.2,
    "train tokenizer": 60.0,
    "tokenize": 45.0,
    "join": 0.3,
    "hash": 0.4,
}
"""Seconds of CPU for a thousand million characters, by step, in order: only their ratios count (docs/benchmarks.md)."""
NEAR = {"clean": 310.0, "compare": 1.0}
"""What `near_dedup` adds."""
_BY_ONE = ("train tokenizer", "hash")
"""Steps of one process, or of a few."""
_PARTS = 1000


def step_costs(workers: int, near: bool, trains: bool) -> dict[str, float]:
    """What each step of a build takes, in the order of the steps and in any unit.

    Args:
        workers: jobs at once; 0 where nobody knows.
        near, trains: whether similar texts are looked for, and whether a tokenizer is trained.
    """
    whole = {name: cost + (NEAR.get(name, 0.0) if near else 0.0) for name, cost in COSTS.items()}
    costs = {name: cost / (1 if name in _BY_ONE else max(1, workers)) for name, cost in whole.items()}
    return costs if trains else {**costs, "train tokenizer": 0.0}


class BuildBars:
    """The bars of one build.

    Args:
        progress: where they are shown; None shows nothing.
        costs: of `step_costs`.
    """

    def __init__(self, progress: Progress | None, costs: dict[str, float]) -> None:
        self._progress, self._costs = progress, costs
        self._shares = dict.fromkeys(costs, 0.0)
        self._work = 0.0  # done by this command, in the unit of the costs
        self._started = time.monotonic()
        self._whole = progress.add_task("whole build", total=_PARTS, left=None) if progress else None

    def step(
        self, name: str, sizes: Sequence[int], unit: str, done_before: Sequence[bool] | None = None
    ) -> OnProgress | None:
        """A bar over the bytes of jobs (or other sizes), with the work done and its rate in the label; for a `JobRunner`.

        Args:
            name: of the step; one that is no step of its own in the costs moves its own bar alone.
            done_before: jobs that an earlier command has done: they count as done, and not as done in the time since.
        """
        if self._progress is None:
            return None
        progress, begun = self._progress, time.monotonic()
        ends = [0, *accumulate(sizes)]
        held = sum(size for size, done in zip(sizes, done_before or ()) if done)
        task = progress.add_task(name, total=ends[-1])
        self._reach(name, held, ends[-1], earlier=True)

        def update(done: int, amount: int, size: int) -> None:
            rate = amount / max(time.monotonic() - begun, 1e-9)
            # What jobs say of themselves is about right; when all are done, it is known.
            reached = max(ends[done], held, min(held + size, ends[-1] - 1) if done < len(sizes) else 0)
            progress.update(task, completed=reached, description=f"{name} ({amount:,} {unit}, {rate:,.0f}/s)")
            self._reach(name, reached, ends[-1])

        return update

    def alone(self, name: str) -> Callable[[], None]:
        """A bar of a step that shows nothing until its end; call the result there."""
        task = self._progress.add_task(name, total=None) if self._progress else None

        def ended() -> None:
            if self._progress is not None and task is not None:
                self._progress.update(task, total=1, completed=1)
            self._reach(name, 1, 1)

        return ended

    def _reach(self, name: str, reached: int, total: int, earlier: bool = False) -> None:
        """Note how far a step is; the steps before it are over."""
        if name not in self._costs:
            return
        share = reached / total if total else 1.0
        if not earlier:
            self._work += self._costs[name] * max(0.0, share - self._shares[name])
        self._shares[name] = max(share, self._shares[name])
        for before in self._costs:
            if before == name:
                break
            self._shares[before] = 1.0
        self._show()

    def _show(self) -> None:
        if self._progress is None or self._whole is None:
            return
        left = sum(cost * (1 - self._shares[name]) for name, cost in self._costs.items())
        seconds = (time.monotonic() - self._started) * left / self._work if self._work > 0 else None
        done = _PARTS * (1 - left / sum(self._costs.values()))
        self._progress.update(self._whole, completed=round(done), left=seconds)


class LeftColumn(TimeRemainingColumn):
    """The time that is left: that of the whole build from its steps' costs, that of a step as rich estimates it."""

    def render(self, task: Task) -> Text:
        if "left" not in task.fields:
            return super().render(task)
        seconds = task.fields["left"]
        shown = "-:--:--" if seconds is None else str(timedelta(seconds=round(seconds)))
        return Text(shown, style="progress.remaining")
