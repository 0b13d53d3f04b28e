"""Which nodes the next start of a job avoids: those of its operator, and those that were found bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from megabiomed.launch import records, scheduler
from megabiomed.launch.capacity import can_start, within_capacity
from megabiomed.launch.causes import Failure
from megabiomed.launch.decision import Decision, failed_there_before, without_bad


def found_bad(history: list[dict[str, Any]]) -> set[str]:
    """Nodes that any start of the run excluded."""
    return {node for record in history for node in record.get("exclude", ())}


def of_operator(run: Path, job: Mapping[str, Any], queued: Mapping[str, str]) -> set[str]:
    """Nodes that the operator excludes: those recorded, and what the controller knows and no start of the run excluded.

    Args:
        job: the record of the submission.
        queued: the job's fields from the controller; empty when it does not answer.
    """
    known = {node for nodes in (queued.get("ExcNodeList"), job.get("exclude")) for node in _expanded(nodes)}
    return (known - found_bad(records.history(run))) | set(_expanded(job.get("exclude")))


def as_far_as_possible(
    run: Path, decision: Decision, bad: Mapping[str, str], own: set[str], queued: Mapping[str, str], needed: int
) -> Decision:
    """A requeue without bad nodes, as far as enough others are left for the job; see `within_capacity`."""
    script = run / records.SLURM / records.SCRIPT
    return within_capacity(decision, bad, own, partial(can_start, queued, script, needed))


def without_repeated(
    run: Path, decision: Decision, failure: Failure | None, queued: Mapping[str, str], needed: int
) -> Decision:
    """A requeue after a failure: without the node on which this start and the one before failed first, and alone.

    Where too few other nodes are left, the job may use it again.
    """
    history, job = records.history(run), records.read_job(run)
    node = failure.suspect if failure is not None else None
    if decision.verb != "requeue" or node is None or not failed_there_before(history, node):
        return decision
    reason = f"{decision.reason}; {node} failed twice in a row and is avoided"
    wish = replace(decision, reason=reason, exclude=tuple(sorted(found_bad(history) | {node})))
    found = as_far_as_possible(run, wish, {node: "failed twice"}, of_operator(run, job, queued), queued, needed)
    return found if found.verb == "requeue" and node in found.exclude else decision


def without_accused(
    run: Path, decision: Decision, bad: dict[str, str], queued: Mapping[str, str], needed: int, nodes: int
) -> Decision:
    """A requeue after nodes were found bad: without those, as far as enough others are left.

    Args:
        bad: node -> why.
        needed: fewest nodes that the next start needs; this one had `nodes`, spares among them.
    """
    history = records.history(run)
    wish = without_bad(decision, bad, nodes, history)
    if wish == decision:
        return decision
    return as_far_as_possible(run, wish, bad, of_operator(run, records.read_job(run), queued), queued, needed)


def _expanded(nodes: str | None) -> list[str]:
    return scheduler.hostnames(nodes) if nodes not in (None, "", "(null)") else []
