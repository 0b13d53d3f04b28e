"""What the starts of a run took from the cluster, and how much of it went into steps that count. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megabiomed.ground.json_lines import seconds_of
from megabiomed.launch import records

_SLACK_S = 120.0
"""The batch script of a start begins before its ranks, on another clock than that of the accounting."""
_HOLDS = ("RUNNING", "COMPLETING", "SUSPENDED")
_GPUS = re.compile(r"gres/gpu(?::[^=,]+)?=(\d+)")


@dataclass(frozen=True)
class Allocation:
    """One start of a job, from the moment when the scheduler gave it nodes. Times are seconds since 1970.

    Attributes:
        queued_s: for how long it waited, after the stages before it had finished; None where nobody knows.
        useful_s: in training steps that no later start did again; None where the work has no steps.
        lost_steps: steps that a later start, or this one after a rewind, did again.
    """

    began: float
    ended: float
    nodes: int
    gpus: int
    cpus: int
    queued_s: float | None = None
    useful_s: float | None = None
    lost_steps: int = 0

    @property
    def hours(self) -> float:
        """For how long it held its nodes."""
        return max(0.0, self.ended - self.began) / 3600


@dataclass(frozen=True)
class Trained:
    """What one start trained: when it began (seconds since 1970), seconds in steps that count, steps done in vain."""

    began: float
    useful_s: float
    lost_steps: int


def of_accounting(rows: Sequence[Mapping[str, str]], now: float) -> list[Allocation]:
    """The starts that sacct tells of, of one run; the components of a job on several kinds of nodes are one start.

    Args:
        rows: JobIDRaw, Submit, Eligible, Start, End, NNodes, AllocCPUS and AllocTRES of each.
    """
    found: dict[tuple[str, float], Allocation] = {}
    for row in rows:
        began = seconds_of(row.get("Start"))
        if began is None:  # it was cancelled in the queue, or waits
            continue
        ready = max(
            (time for key in ("Submit", "Eligible") if (time := seconds_of(row.get(key))) is not None), default=None
        )
        gpus = max(map(int, _GPUS.findall(row.get("AllocTRES", ""))), default=0)
        one = Allocation(
            began, seconds_of(row.get("End")) or now, _whole(row.get("NNodes")), gpus, _whole(row.get("AllocCPUS")),
            None if ready is None else max(0.0, began - ready),
        )  # fmt: skip
        key = (row.get("JobID", "").partition("+")[0], began)
        other = found.get(key)
        found[key] = one if other is None else _joined(other, one)
    return sorted(found.values(), key=lambda start: start.began)


def of_records(run: Path, job: Mapping[str, Any], state: str | None, now: float) -> list[Allocation]:
    """The starts that the run itself noted.

    A start that vanished ends with the last line of its rank 0.

    Args:
        job: what was submitted.
        state: SLURM's state of the job now; None where nobody knows.
    """
    history = records.history(run)
    begins = [
        (record, began) for record in history if record["kind"] == "begin" and (began := _began(record)) is not None
    ]
    again = [seconds_of(record.get("time")) for record in history if record.get("outcome") == records.RESUBMITTED]
    over: list[float | None] = [seconds_of(job.get("submitted", job.get("prepared")))]
    found: list[Allocation] = []
    for number, (begin, began) in enumerate(begins):
        later = begins[number + 1][1] if number + 1 < len(begins) else None
        ended = max(began, _ended(run, begin, history, later, now if state in _HOLDS else None))
        # From when on it could have started: after the submission, the start before it, and the stages before.
        ready = [at for at in (*over, *again, _last_finish(job, began)) if at is not None and at <= began]
        held = _resources(job, str(begin.get("nodes", "")))
        found.append(Allocation(began, ended, *held, began - max(ready) if ready else None))
        over.append(ended)
    return found


def with_training(starts: list[Allocation], trained: Sequence[Trained]) -> list[Allocation]:
    """The starts with what each of them trained; one start may have launched its ranks several times."""
    found = [replace(start, useful_s=0.0) for start in starts]
    for part in trained:
        at = [n for n, start in enumerate(found) if start.began - _SLACK_S <= part.began <= start.ended + _SLACK_S]
        inside = [n for n in at if found[n].began <= part.began] or at
        if inside:  # else it was started by hand, outside of any job
            n = inside[-1]
            useful = (found[n].useful_s or 0.0) + part.useful_s
            found[n] = replace(found[n], useful_s=useful, lost_steps=found[n].lost_steps + part.lost_steps)
    return found


def gpu_hours(starts: Sequence[Allocation]) -> float:
    """GPUs times the hours for which they were held."""
    return sum(start.gpus * start.hours for start in starts)


def node_hours(starts: Sequence[Allocation]) -> float:
    """Nodes times the hours for which they were held."""
    return sum(start.nodes * start.hours for start in starts)


def count_nodes(text: str) -> int:
    """How many nodes a compressed list of SLURM names: 4 for `n[1-3],m7`. Asks nobody."""
    count = 0
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names = 1
        for inside in re.findall(r"\[([^\]]*)\]", part):
            ends = [piece.split("-") for piece in inside.split(",")]
            names *= sum(int(last[-1]) - int(last[0]) + 1 if last[-1].isdigit() else 1 for last in ends)
        count += names
    return count


def _resources(job: Mapping[str, Any], nodes: str) -> tuple[int, int, int]:
    """Nodes, GPUs and cores of a start; one that went on with fewer nodes has fewer of all."""
    cluster = job.get("cluster", {})
    count = int(job.get("nodes", 1))
    whole = job.get("resources") or {
        "nodes": count, "gpus": count * int(cluster.get("gpus_per_node") or 0),
        "cpus": int(job.get("ranks", count)) * int(cluster.get("cpus_per_task") or 1),
    }  # fmt: skip
    held = count_nodes(nodes) or int(whole["nodes"])
    share = held / max(1, int(whole["nodes"]))
    return held, round(whole["gpus"] * share), round(whole["cpus"] * share)


def _began(begin: Mapping[str, Any]) -> float | None:
    """When the batch script of a start began, which its name says; before its first decision."""
    last = str(begin.get("incarnation", "")).rpartition(".")[2]
    noted = seconds_of(begin.get("time"))
    # A name from elsewhere may end with any number.
    named = float(last) if last.isdigit() and noted is not None and 0 <= noted - float(last) < 3600 else None
    return named if named is not None else noted


def _ended(
    run: Path, begin: Mapping[str, Any], history: list[dict[str, Any]], later: float | None, now: float | None
) -> float:
    """When a start ended: as it noted, or now, or when its first rank was heard last."""
    name = begin["incarnation"]
    for record in reversed(history):
        over = record["kind"] in ("end", "no_agent") or record.get("decision", "run") != "run"
        time = seconds_of(record.get("time"))
        if over and record.get("incarnation") == name and time is not None:
            return time
    if later is None and now is not None:
        return now
    log = run / "logs" / str(name) / "rank_0.log"
    heard = [log.stat().st_mtime] if log.is_file() else []
    heard += [time for time in (seconds_of(begin.get("time")),) if time is not None]
    return min(max(heard, default=0.0), later if later is not None else float("inf"))


def _last_finish(job: Mapping[str, Any], began: float) -> float | None:
    """When the last of the stages before had finished: until then a job could not start."""
    finishes = (records.last_event(Path(folder)) for folder in job.get("before", []))
    times = (seconds_of(event.get("time")) for event in finishes if event.get("event") == "finished")
    return max((time for time in times if time is not None and time <= began), default=None)


def _joined(first: Allocation, other: Allocation) -> Allocation:
    return replace(
        first, ended=max(first.ended, other.ended), nodes=first.nodes + other.nodes,
        gpus=first.gpus + other.gpus, cpus=first.cpus + other.cpus,
    )  # fmt: skip


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0
