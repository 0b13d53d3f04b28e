"""The checks of `make bench-campaign`, while it waits and after each action."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CalledProcessError, TimeoutExpired
from typing import Any

from support.reference import Reference
from support.runs import losses

from bench.campaign_moves import COMMON, SHAPES, State
from bench.fault_checks import complaints, doubled, lines_of, unexplained
from bench.fault_cluster import Place
from megabiomed.launch import records
from megabiomed.launch.status import status_of

SILENT_S = 30.0
"""For so long `status` may have no reason: SLURM itself names none for some seconds."""
STILL_S = 240.0
"""A run that nobody holds has saved, begun or ended something within that time."""


class Expected:
    """The undisturbed runs, one for each shape: losses, and hashes of samples."""

    def __init__(self, place: Place, steps: int) -> None:
        self.losses: dict[str, dict[int, float]] = {}
        self.hashes: dict[int, str] = {}
        for shape, (_, topology, _) in SHAPES.items():
            folder = place.folder / f"undisturbed-{shape}"
            folder.mkdir()
            words = [*COMMON, *topology, "train.log_every=1", "checkpoint.save_every=0"]
            reference = Reference(folder, place.run_text, words, steps)
            reference.run()
            self.losses[shape] = losses(reference.folder)
            self.hashes = reference.hashes(steps)


@dataclass
class Watch:
    """Looks at the queue and at the present run; what is wrong is a line of `found`."""

    state: State
    expected: Expected
    found: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    shrunk: int = 0
    _saved: dict[tuple[str, int], int] = field(default_factory=dict)
    _silent: float | None = None
    _mark: tuple[Any, ...] = ()
    _moved: float = field(default_factory=time.monotonic)

    def until(self, when: float) -> None:
        """Look again and again up to a time of `time.monotonic`, or until something is wrong."""
        while not self.found:
            self.look()
            if time.monotonic() >= when:
                return
            time.sleep(2.0)

    def look(self) -> None:
        """Once."""
        run = self.state.run
        if not run.is_dir():
            return
        saved = records.committed_step(run)
        starts = self._starts(run)
        key = (run.name, len(starts))
        self._saved[key] = max(saved, self._saved.get(key, 0))
        if self.state.away:
            return
        try:
            self.found += doubled(self.state.place.live())
        except (CalledProcessError, TimeoutExpired):  # the controller is busy with its start
            return
        row = status_of(run)
        self._explained(row)
        self._advances(run, row, (saved, len(starts), row["starts"], len(row["endings"]), row["step"]))

    def files(self) -> None:
        """What the run itself wrote."""
        run, shape = self.state.run, self.state.shape
        before = self._saved.get((run.name, len(self._starts(run)) - 1), 0)
        self.found += complaints(run, self.expected.losses[shape], self.expected.hashes, before)
        if records.is_finished(run) and run.name not in self.finished:
            self.finished.append(run.name)
            missing = self.expected.losses[shape].keys() - losses(run).keys()
            self.found += [f"{run.name}: finished without the steps {sorted(missing)[:5]}"] if missing else []
            events = lines_of(run / "events.jsonl")
            self.shrunk += any("ranks:" in str(event.get("changed")) for event in events)

    def _starts(self, run: Path) -> list[dict[str, Any]]:
        return [each for each in lines_of(run / "events.jsonl") if each["event"] in ("start", "resume")]

    def _explained(self, row: dict[str, Any]) -> None:
        said, now = unexplained(row), time.monotonic()
        self._silent = (self._silent or now) if said else None
        if self._silent is not None and now - self._silent > SILENT_S:
            self.found += said

    def _advances(self, run: Path, row: dict[str, Any], mark: tuple[Any, ...]) -> None:
        now = time.monotonic()
        # Without a job it gave up, and said so; the next action of the operator submits it again.
        rests = self.state.held or records.is_finished(run) or not self.state.live()
        if rests or (run.name, *mark) != self._mark:
            self._moved = now
        self._mark = (run.name, *mark)
        if now - self._moved > STILL_S:
            why = f"{row['state']}, {row['reason']}, {row['blocked']}, last: {row['last']}"
            self.found.append(f"{run.name} stands still for {now - self._moved:.0f} s: {why}")
