"""Which start a run belongs to, the job that took it over, and the stages that wait for the one that lost it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from megabiomed.checkpoint.fence import Fence, holder
from megabiomed.ground.errors import LaunchError, MegabiomedError, UserError
from megabiomed.launch import records, scheduler
from megabiomed.launch.decision import SUPERSEDED, Decision

_UNKNOWN = "a start without a job"
TAKEN_OVER = Decision("done", "a later start took over")


def owner(incarnation: str) -> str:
    """`<job>.<restart>` of an incarnation: one start of a job, as the fence names it."""
    return incarnation.rpartition(".")[0]


def has_successor(run: Path, incarnation: str) -> bool:
    """Whether this script slept before its begin, and its job or its run was started elsewhere meanwhile.

    The scheduler decides; where it does not answer, a restart of the same job that holds the run does.
    """
    number, _, restart = owner(incarnation).partition(".")
    other, _, later = holder(run).rpartition("-")[0].rpartition(".")
    if other == number and later.isdigit() and int(later) > int(restart):
        return True
    try:
        job = scheduler.job(number, patient=False)
    except MegabiomedError:
        return False  # a run must not stand still for that
    return job.get("Restarts", restart) != restart or job.get("JobState", "RUNNING") not in scheduler.STARTED


def other_job(run: Path, recorded: str | None) -> str | None:
    """The job recorded for this run, if it is in the queue and not this one.

    A submission that the scheduler answered too late may have left two jobs, which would take the run from each other.
    """
    if recorded in (None, os.environ.get("SLURM_JOB_ID")):
        return None
    try:
        job = scheduler.job_of(run)
    except MegabiomedError:
        return None  # the controller does not answer: a run must not stand still for that
    return recorded if job.get("JobState") in scheduler.ACTIVE else None


def claimed(run: Path, incarnation: str) -> tuple[Fence | None, bool]:
    """The claim that `begin` made for this incarnation, and whether it was lost: then this is a zombie.

    The scheduler lost its node and has started the job elsewhere, or an operator has submitted the run again. It must neither
    requeue the job, which has the same id, nor use up the budget, nor note an end of what goes on.
    """
    # Seen on a node that was cut off from its controller: the old rank trained on for 79 s next to the new incarnation.
    begins = [record["incarnation"] for record in records.history(run) if record["kind"] == "begin"]
    try:
        token = holder(run)
        fence = Fence.inherit(run, owner(incarnation))
    except (UserError, OSError):  # storage that is away for a moment
        token, fence = "", None
    lost = bool(token) and fence is None
    return fence, lost or (bool(begins) and begins[-1] != incarnation)


def after_takeover(run: Path, start: str) -> Decision:
    """What a start does that lost its run: it leaves it alone.

    A later start of the same job goes on under the same id. Another job means failure: stages that wait for this one
    (afterok) would otherwise start on a run that is not finished. They wait for the other job from now on; where that cannot
    be arranged, the scheduler cancels them.

    Args:
        start: `<job>.<restart>` of the one that lost.
    """
    job_id = start.partition(".")[0]
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
