"""Which task of a start failed first, where and how: from srun's lines in job.log, and from the ranks' own logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.ground.secrets import masked
from megabiomed.launch.last_words import END, end_of, is_consequence, last_error
from megabiomed.launch.records import SLURM

JOB_LOG = "job.log"
STARTING = "starting the ranks"
"""What the batch script says before them; srun's lines above that are of the preflight."""
_TASKS = re.compile(
    r"\b(?:srun|slurmstepd[^:]*): error: (?P<nodes>[^\s:]+): tasks? (?P<tasks>[\d,\s-]+): (?P<how>.*\S)"
)
_NODE = re.compile(
    r"\berror: (?:Node failure on (?P<lost>\S+)|Task launch for \S+ failed on node (?P<refused>[^\s:]+):? ?(?P<why>.*))"
)
_SIGNALS = {
    "Killed": "SIGKILL", "Terminated": "SIGTERM", "Segmentation fault": "SIGSEGV", "Aborted": "SIGABRT",
    "Bus error": "SIGBUS", "Illegal instruction": "SIGILL", "Floating point exception": "SIGFPE",
    "Out Of Memory": "SIGKILL, out of memory",
}  # fmt: skip
_NUMBERS = {"134": "SIGABRT", "135": "SIGBUS", "137": "SIGKILL", "139": "SIGSEGV", "143": "SIGTERM"}
"""Exit codes by which a shell or a container between srun and the rank says that a signal ended it."""


@dataclass(frozen=True)
class Failure:
    """The task that failed first.

    Attributes:
        rank, node: None where nobody said it.
        how: in the scheduler's words, with the signal.
        error: the last error in the task's own log.
        time: when that log ended, UTC.
        suspect: the node, where nothing failed on another one, and a signal or the node itself ended the task. An exception of
            the program would follow it to any node.
    """

    rank: int | None
    node: str | None
    how: str
    error: str | None = None
    log: Path | None = None
    time: str | None = None
    suspect: str | None = None

    def __str__(self) -> str:
        who = f"rank {self.rank}" if self.rank is not None else "a node"
        where = f" on {self.node}" if self.node else ""
        return f"{who}{where} failed first: {self.how}" + (f"; its last error: {self.error}" if self.error else "")

    @property
    def blames_node(self) -> bool:
        """Whether the program could not even be started there: its software is gone, or the node is."""
        return self.rank is None or "execve()" in (self.error or "")

    @property
    def follows(self) -> bool:
        """Whether the task was ended for another one, or lost its connection to one."""
        return "SIGTERM" in self.how or is_consequence(self.error)

    def record(self) -> dict[str, Any]:
        """For the records of a run."""
        log = str(self.log) if self.log is not None else None
        return {
            "rank": self.rank, "node": self.node, "how": self.how, "error": self.error, "log": log, "time": self.time,
            "suspect": self.suspect,
        }  # fmt: skip


def first_failure(run: Path, incarnation: str) -> Failure | None:
    """The first failing task of a start; None when nothing says that one failed.

    A task that was ended for another one, or that lost its connection to one, is a consequence, and is named only where no
    other failed.
    """
    return failure_in(_section(run / SLURM / JOB_LOG, incarnation), run / "logs" / incarnation)


def failure_in(lines: Iterable[str], logs: Path) -> Failure | None:
    """The same from srun's lines about one step, whose ranks have their logs in a folder."""
    found = [*_told(lines, logs)] or [*_untold(logs)]
    causes = [each for each in found if not each.follows]
    if not causes:
        return found[0] if found else None
    first = causes[0]
    alone = first.node is not None and all(each.node == first.node for each in causes)
    return replace(first, suspect=first.node) if alone and (first.blames_node or "(SIG" in first.how) else first


def _told(lines: Iterable[str], logs: Path) -> Iterator[Failure]:
    """What srun said, in the order in which it heard of it."""
    for line in lines:
        if gone := _NODE.search(line):
            why = "the node failed" if gone["lost"] else gone["why"] or "the task could not be launched"
            yield Failure(None, gone["lost"] or gone["refused"], why)
        elif told := _TASKS.search(line):
            how = told["how"]
            signal = _SIGNALS.get(how.partition(" (")[0]) or _NUMBERS.get(how.rpartition("exit code ")[2])
            nodes = told["nodes"] if "[" not in told["nodes"] and "," not in told["nodes"] else None
            for rank in _numbers(told["tasks"]):
                yield _task(logs, rank, nodes, f"{how} ({signal})" if signal else how)


def _section(file: Path, incarnation: str) -> list[str]:
    """The lines of a start in the log of the batch script, which has those of all starts of the job."""
    lines = end_of(file, END * 16).splitlines()
    mine = [n for n, line in enumerate(lines) if f"[{incarnation}]" in line]
    if not mine:
        return []
    begun = [n for n in mine if STARTING in lines[n]]
    later = (n for n, line in enumerate(lines) if n > mine[-1] and re.search(r" \[\d+\.\d+\.\d+\] ", line))
    return lines[begun[-1] if begun else mine[0] : next(later, len(lines))]


def _numbers(text: str) -> Iterator[int]:
    """Ranks of `0,2-5`."""
    for part in text.replace(" ", "").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            yield from range(int(first), (int(last) if last.isdigit() else int(first)) + 1)


def _task(logs: Path, rank: int, node: str | None, how: str) -> Failure:
    log = logs / f"rank_{rank}.log"
    try:
        time = datetime.fromtimestamp(log.stat().st_mtime, UTC).isoformat(timespec="seconds")
    except OSError:
        return Failure(rank, node, how)
    error = last_error(end_of(log), by_itself="exit code" in how)
    return Failure(rank, node, how, masked(error) if error else None, log, time)


def _untold(logs: Path) -> Iterator[Failure]:
    """Without srun, or when the batch script died before it heard: the ranks whose logs end in an error, the oldest first."""
    files = sorted(logs.glob("rank_*.log"), key=lambda file: file.stat().st_mtime)
    for file in files:
        number = file.stem.removeprefix("rank_")
        error = last_error(end_of(file), by_itself=False)
        if error and number.isdigit():
            yield _task(logs, int(number), None, "its log ends in an error")
