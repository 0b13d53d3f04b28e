"""Whether a start that got fewer nodes than were asked for waits for the others, or goes on with those that it has.

The job asks SLURM for a range of nodes. So it starts with fewer whoever requeued it: its own script, or SLURM after a node
died, when nothing of the job is left that could ask for less. Each such start decides here. Within `shrink_after` it goes
back to the queue; after that it runs. The next requeue asks for the same range, so it grows back when the nodes are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import records, scheduler
from megabiomed.launch.capacity import states_of
from megabiomed.launch.decision import Decision

SHORT_SINCE = "short_since"
"""Key of the records of a start with fewer nodes: since when the run has had too few."""
CHOSEN = "MEGABIOMED_CHOSEN"
"""The nodes of the ranks; the others of the job are spares."""
WAITS = "waits"
"""Kind of the record of a start that goes back to the queue to wait for more nodes."""
_NOTED = (SHORT_SINCE, "asked", "used", "without")


def sizes_of(job: Mapping[str, Any]) -> tuple[int, ...]:
    """Counts of nodes with which a start may run, the asked one first; empty for a run that never shrinks.

    Args:
        job: the record of the submission.
    """
    found = job.get("sizes")
    return tuple(found) if isinstance(found, list) and len(found) > 1 else ()


def fitting(job: Mapping[str, Any], have: int) -> int:
    """Nodes that the ranks of a start take of those that it has."""
    return next((count for count in sizes_of(job) if count <= have), have)


def least(job: Mapping[str, Any], nodes: int) -> int:
    """Nodes that a job needs at least; `nodes` where it never shrinks."""
    return min(sizes_of(job), default=nodes)


def ranks_of(job: Mapping[str, Any], begin: Mapping[str, Any]) -> int:
    """Ranks of a start: fewer than were asked for where it had fewer nodes."""
    sizes, used = sizes_of(job), begin.get("used")
    return int(job["ranks"]) // sizes[0] * int(used) if sizes and used else int(job["ranks"])


def fitted(
    decision: Decision, job: Mapping[str, Any], have: list[str], history: list[dict[str, Any]], waited_s: float | None
) -> tuple[Decision, dict[str, Any]]:
    """What a start does that was given some nodes, and what its record says of them.

    Args:
        decision: to run.
        have: the nodes that it was given.
        history: records of earlier decisions and begins since the submission, oldest first.
        waited_s: how long the job could have started before it did; None where nobody knows.
    """
    sizes = sizes_of(job)
    if not sizes or not have:
        return decision, {}
    asked = sizes[0]
    if len(have) >= asked:
        again = f", with all {asked} nodes again" if _short_since(history) else ""
        return replace(decision, reason=decision.reason + again, nodes=tuple(have[:asked])), {"used": asked}
    used = next((count for count in sizes if count <= len(have)), None)
    since = _short_since(history) or _ago(waited_s or 0.0)
    noted: dict[str, Any] = {SHORT_SINCE: since, "asked": asked, "decision": "requeue"}
    if gone := _gone(have, history):
        noted["without"] = gone
    text = f"{len(have)} of {asked} nodes{f' (without {gone})' if gone else ''}"
    if used is None:
        return Decision("requeue", f"{text}: too few, the run needs {min(sizes)}"), noted
    short_s, patience_s = _seconds_since(since), int(job.get("shrink_after") or 0)
    if short_s < patience_s:
        waits = f"waits for the others for {patience_s - short_s:.0f} s more, then goes on with {used}"
        return Decision("requeue", f"{text}: {waits}"), noted
    idle = f", {len(have) - used} of them idle, as the run fits {used} nodes" if used < len(have) else ""
    reason = f"{decision.reason} with {text} after {short_s:.0f} s{idle}"
    if used < len(have):
        noted["ranks_on"] = ",".join(have[:used])
    return replace(decision, reason=reason, nodes=tuple(have[:used])), {**noted, "used": used, "decision": "run"}


def here(decision: Decision, job: Mapping[str, Any], queued: Mapping[str, str], history: list[dict[str, Any]], nodes: str
) -> tuple[Decision, dict[str, Any]]:  # fmt: skip
    """As `fitted`, for the nodes of this very start.

    Args:
        queued: the job's fields from the controller; empty when it does not answer.
        nodes: as SLURM lists them.
    """
    if not sizes_of(job) or decision.verb != "run":
        return decision, {}
    try:
        # After a restart in the allocation: those that were chosen then.
        have = scheduler.hostnames(os.environ.get(CHOSEN, nodes))
    except MegabiomedError:
        have = []
    return fitted(decision, job, have, records.since_submission(history), waited_s(queued))


def waited_s(queued: Mapping[str, str]) -> float | None:
    """How long a job could have started before it did, by the clock of the controller; None where nobody knows."""
    try:
        eligible, start = (datetime.fromisoformat(queued[key]) for key in ("EligibleTime", "StartTime"))
    except (KeyError, ValueError):
        return None
    return max(0.0, (start - eligible).total_seconds())


def shrunk(history: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Nodes of the newest start, how many were asked for, and since when it has had too few; None when it has all."""
    last = _newest(records.since_submission(history))
    if not last.get(SHORT_SINCE):
        return None
    return {key: last.get(key) for key in _NOTED} | {"waits": last["kind"] == WAITS}


def _newest(history: list[dict[str, Any]]) -> dict[str, Any]:
    return next((record for record in reversed(history) if record["kind"] in ("begin", WAITS)), {})


def _short_since(history: list[dict[str, Any]]) -> str | None:
    """Since when the run has had fewer nodes than were asked for; None when its newest start had all."""
    since = _newest(history).get(SHORT_SINCE)
    return since if isinstance(since, str) else None


def _seconds_since(time: str) -> float:
    try:
        return max(0.0, (datetime.fromisoformat(records.now()) - datetime.fromisoformat(time)).total_seconds())
    except (ValueError, TypeError):  # a damaged record
        return 0.0


def _ago(seconds: float) -> str:
    then = datetime.fromisoformat(records.now()) - timedelta(seconds=seconds)
    return then.isoformat(timespec="seconds")


def _gone(have: list[str], history: list[dict[str, Any]]) -> str | None:
    """The nodes of the last start with all nodes that this one does not have, with their states."""
    whole = [record for record in history if record["kind"] == "begin" and SHORT_SINCE not in record]
    full = whole[-1] if whole else {}
    try:
        before = scheduler.hostnames(full["nodes"]) if full.get("nodes") else []
        states = states_of(os.environ.get("SLURM_JOB_PARTITION", "")) if before else {}
    except MegabiomedError:
        return None
    gone = [f"{node} {states.get(node, '')}".strip() for node in before if node not in have]
    return ", ".join(gone) or None
