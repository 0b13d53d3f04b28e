"""A failed start is followed by the next one in the same allocation, where that can be: no queue, and no pause of SLURM.

The batch script keeps the allocation, asks every node of it (launch/answer.py), replaces a bad or silent one by a spare,
and the ranks start again. The next start claims the run anew and has its own records and budget, as after a requeue.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import answer, elastic, records, scheduler
from megabiomed.launch.causes import Failure
from megabiomed.launch.decision import AGAIN, Decision, Ending, failed_there_before

_LEAST_LEFT_S = 60.0
SILENT = "no answer"


@dataclass(frozen=True)
class Allocation:
    """The nodes of a job.

    Attributes:
        nodes: all of them, in the scheduler's order.
        used: those with ranks.
        needed: how many the ranks take.
    """

    nodes: tuple[str, ...]
    used: tuple[str, ...]
    needed: int

    def choose(self, bad: Mapping[str, str]) -> tuple[str, ...] | None:
        """Nodes for the next start: those with ranks that are well, then spares; None when too few are left."""
        well = [node for node in self.nodes if node not in bad]
        well.sort(key=lambda node: node not in self.used)
        kept = set(well[: self.needed])
        return tuple(node for node in self.nodes if node in kept) if len(kept) == self.needed else None

    @property
    def spares(self) -> tuple[str, ...]:
        """Nodes without ranks."""
        return tuple(node for node in self.nodes if node not in self.used)


def allocation(job: Mapping[str, Any], nodes: Sequence[str]) -> Allocation:
    """The nodes of this job.

    Args:
        job: the record of the submission.
        nodes: all nodes that the job has.
    """
    used: Sequence[str] = ()
    with suppress(MegabiomedError, KeyError):
        used = scheduler.hostnames(os.environ[elastic.CHOSEN])
    # A job on several kinds of nodes has no spares: one kind does not stand in for another.
    spare = int(job.get("spare_nodes", 0))
    needed = min(int(job["nodes"]), len(nodes)) if spare and "nodes" in job else len(nodes)
    needed = elastic.fitting(job, needed)
    return Allocation(tuple(nodes), tuple(used or nodes)[:needed], needed)


def refused(job: Mapping[str, Any], decision: Decision, ending: Ending, accused: Mapping[str, str]) -> str | None:
    """Why a start is not followed by another one in this allocation, before any node is asked; None where it may be.

    Empty where nobody would expect it: it is switched off, or the start did not fail.
    """
    if not job.get("cluster", {}).get("restart_in_allocation", False):
        return ""
    if decision.verb != "requeue" or not ending.active or ending.warned or (ending.outcome and not accused):
        return ""
    left = float(os.environ.get("MEGABIOMED_STOP_AT", "inf")) - time.time()
    # What it took until the first step, twice: a start that ends before it has saved something is in vain.
    needed = max(_LEAST_LEFT_S, 2 * (ending.lasted_s - (ending.trained_s or 0.0) - ending.copied_s))
    return f"{left:.0f} s are left of the time limit, {needed:.0f} s are needed" if left < needed else None


def restarted(
    run: Path,
    incarnation: str,
    place: Allocation,
    decision: Decision,
    failure: Failure | None,
    accused: Mapping[str, str],
) -> tuple[Decision, dict[str, str]]:
    """The next start in this allocation, or the same requeue with the reason why not; node -> why of those that are left out.

    Args:
        decision: the requeue that it replaces.
        accused: node -> why, of those that the ranks found bad.
    """
    history, job = records.history(run), records.read_job(run)
    bad = replaced_before(history, incarnation) | dict(accused)
    if failure is not None and failure.suspect is not None and failed_there_before(history, failure.suspect):
        bad[failure.suspect] = "failed twice in a row"
    asked = [node for node in place.nodes if node not in bad]
    cluster = job.get("cluster", {})
    answers = answer.ask(run, asked, sys.executable, int(cluster.get("gpus_per_node", 0)))
    silent = _seen(run, incarnation)
    found = {node: ", ".join(answers.get(node, [f"{SILENT} ({silent})"])) for node in asked if answers.get(node) != []}
    bad |= found
    lost = {node: bad[node] for node in bad if node in place.used}
    chosen = place.choose(bad)
    words = "; ".join(f"{node}: {why}" for node, why in sorted(lost.items()))
    if chosen is None:
        why = f"{len(place.nodes) - len(bad)} of {place.needed} nodes are well"
        reason = f"{decision.reason}; not restarted in the allocation: {why}" + (f" ({words})" if words else "")
        return replace(decision, reason=reason), found
    fresh = [node for node in chosen if node not in place.used]
    text = f"; {words}; {', '.join(fresh)} instead" if fresh else ""
    return replace(decision, verb=AGAIN, reason=f"{decision.reason}{text}", nodes=chosen), lost


def on_spares(bad: Mapping[str, str], chosen: tuple[str, ...]) -> Decision:
    """A start whose preflight found bad nodes, on the others that the job has."""
    text = "; ".join(f"{node}: {why}" for node, why in sorted(bad.items()))
    return Decision("run", f"bad nodes: {text}; the ranks start on {', '.join(chosen)}", nodes=chosen)


def placed(nodes: str) -> dict[str, str]:
    """For the record of a start: the nodes of its ranks, where they are not all of the job's."""
    chosen = os.environ.get(elastic.CHOSEN, nodes)
    return {"ranks_on": chosen} if chosen != nodes else {}


def replaced_before(history: list[dict[str, Any]], incarnation: str) -> dict[str, str]:
    """Nodes that earlier starts in this allocation left out."""
    mine = incarnation.rpartition(".")[0]
    return {
        node: "was left out before"
        for record in history
        if str(record.get("incarnation", "")).rpartition(".")[0] == mine and record["kind"] in ("end", "preflight")
        for node in record.get("exclude", ())
    }


def fault_time(run: Path, incarnation: str) -> float | None:
    """When the batch script saw that a start had failed, in seconds since 1970; None when it did not say."""
    with suppress(OSError, ValueError):
        return float((run / "logs" / incarnation / "fault").read_text())
    return None


def _seen(run: Path, incarnation: str) -> str:
    """When the ranks of a start last wrote something, and how long after that its failure was seen."""
    files = [run / "metrics.jsonl", *(run / "logs" / incarnation).glob("rank_*.log")]
    times = [file.stat().st_mtime for file in files if file.is_file()]
    seen = fault_time(run, incarnation) or time.time()
    if not times:
        return "the ranks wrote nothing"
    last = datetime.fromtimestamp(max(times)).strftime("%H:%M:%S")
    return f"last words of the ranks at {last}, the loss was seen {max(0.0, seen - max(times)):.0f} s later"
