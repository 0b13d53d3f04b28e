"""The job that took a run over, and the stages that wait for the one that lost it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from megabiomed.checkpoint.fence import holder
from megabiomed.ground.errors import LaunchError, UserError
from megabiomed.launch import records, scheduler
from megabiomed.launch.decision import SUPERSEDED, Decision

_UNKNOWN = "a start without a job"
TAKEN_OVER = Decision("done", "a later start took over")


def after_takeover(run: Path, owner: str) -> Decision:
    """What a start does that lost its run: it leaves it alone.

    A later start of the same job goes on under the same id. Another job means failure: stages that wait for this one
    (afterok) would otherwise start on a run that is not finished. They wait for the other job from now on; where that cannot
    be arranged, the scheduler cancels them.

    Args:
        owner: `<job>.<restart>` of the start that lost.
    """
    job_id = owner.partition(".")[0]
    other = _holder(run, job_id)
    if other is None:
        return TAKEN_OVER
    tied: list[str] = []
    if other != _UNKNOWN:
        with suppress(LaunchError):
            tied = hand_over(job_id, other)
    waits = f"; waiting for that now: job {', '.join(tied)}" if tied else ""
    whose = other if other == _UNKNOWN else f"job {other}"
    return Decision("fail", f"{whose} took the run over{waits}", code=SUPERSEDED)


def _holder(run: Path, job_id: str) -> str | None:
    """Id of the other job that has the run now, `_UNKNOWN` for a start by hand, None for the same job."""
    begins = [str(record["incarnation"]) for record in records.history(run) if record["kind"] == "begin"]
    with suppress(UserError, OSError):  # storage that is away for a moment
        begins.append(holder(run).rpartition("-")[0])
    number, _, restart = (begins[-1] if begins else "").partition(".")
    if number.isdigit() and restart[:1].isdigit():
        return None if number == job_id else number
    # Submitted again by hand: the record has the id, unless it is being submitted in this moment.
    recorded = records.read_job(run).get("job_id")
    resubmitted = number == records.RESUBMITTED
    return recorded if resubmitted and recorded not in (None, job_id) else _UNKNOWN


def hand_over(old: str, new: str) -> list[str]:
    """Let the waiting jobs of this user that depend on one job depend on another; returns their ids.

    Raises:
        LaunchError: the scheduler did not answer, or refused one of them.
    """
    text = scheduler.call("squeue", "--me", "--states=PENDING", "--noheader", "--format=%i|%E", patient=False)
    tied = dependents(text, old, new)
    for number, dependency in tied.items():
        scheduler.call("scontrol", "update", f"jobid={number}", f"dependency={dependency}", patient=False)
    return list(tied)


def dependents(queue: str, old: str, new: str) -> dict[str, str]:
    """Job id -> its dependencies with one job in place of another; from lines such as `78|afterok:77(unfulfilled)`."""
    mine = re.compile(rf"(?<=[:?,]){re.escape(old)}(?:\+0)?(?![\d+_])")
    found: dict[str, str] = {}
    for line in queue.splitlines():
        number, _, dependencies = line.partition("|")
        # SLURM shows how each stands, and does not take that back.
        plain = re.sub(r"\([^)]*\)", "", dependencies)
        if mine.search(plain):
            found[number] = mine.sub(new, plain)
    return found
