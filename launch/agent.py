"""`python -m megabiomed.launch.agent begin|judge|end`: the batch script's decisions, on the first node, without torch."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import records, scheduler
from megabiomed.launch.decision import Decision, Ending, after_preflight, after_run, before_run
from megabiomed.launch.preflight_verdict import bad_nodes
from megabiomed.processes.hang_page import suspects, write_page

_FULL = (errno.ENOSPC, errno.EDQUOT)
NODES = "MEGABIOMED_NODES"  # of all components; SLURM_JOB_NODELIST holds those of the first


def begin(run: Path, incarnation: str) -> Decision:
    """Decide whether an incarnation may begin, and note that it did."""
    step, job = records.committed_step(run), records.read_job(run)
    if other := _other_job(run, job.get("job_id")):
        records.append(run, "duplicate", incarnation=incarnation, other=other)
        return Decision("fail", f"job {other} is the job of this run")
    finished = records.last_event(run).get("event") == "finished"
    history = records.history(run)
    killed = any((Path(folder) / records.KILL_SWITCH).exists() for folder in job["controls"])
    found = before_run(finished, killed, history, step, job["max_failures"])
    kind = "begin" if found.verb == "run" else "refused"
    (run / records.SLURM / records.VERDICTS).mkdir(exist_ok=True)
    nodes = os.environ.get(NODES, "")
    records.append(run, kind, incarnation=incarnation, step=step, nodes=nodes, reason=found.reason)
    return found


def _other_job(run: Path, recorded: str | None) -> str | None:
    """The job that was recorded for this run, if it is another than this one and in the queue.

    A request that the scheduler answered too late may have left two jobs, which would take the run from each other.
    """
    if recorded in (None, os.environ.get("SLURM_JOB_ID")):
        return None
    try:
        found = scheduler.job_of(run)
    except MegabiomedError:
        return None
    return recorded if found.get("JobState") in scheduler.ACTIVE else None


def judge(run: Path, incarnation: str) -> Decision:
    """Compare the nodes' preflights."""
    job = records.read_job(run)
    nodes = scheduler.hostnames(os.environ[NODES])
    bad = bad_nodes(run, incarnation, nodes, job["slow_factor"])
    found = after_preflight(bad, len(nodes), records.history(run), job["max_failures"])
    if found.exclude:
        found = replace(found, exclude=tuple(sorted({*found.exclude, *_excluded(job)})))
    outcome = {"exclude": list(found.exclude), "all": len(bad) == len(nodes), "reason": found.reason}
    records.append(run, "preflight", incarnation=incarnation, **outcome)
    return found


def end(run: Path, incarnation: str, code: int, warned: bool) -> Decision:
    """Decide what follows an incarnation, and note it."""
    history, job = records.history(run), records.read_job(run)
    mine = [record for record in history if record["kind"] == "begin" and record["incarnation"] == incarnation]
    if _superseded(history, incarnation):
        records.append(run, "superseded", incarnation=incarnation, code=code)
        return Decision("done", "a later start took over")
    outcome = str(records.verdict(run, incarnation).get("outcome", ""))
    if job["kind"] == records.COMMAND and code == 0:
        outcome = "finished"
        with _full_disk():
            records.finished(run)
    ending = Ending(
        outcome=outcome,
        code=code,
        active=_is_active(),
        before=mine[-1]["step"] if mine else 0,
        after=records.committed_step(run),
        warned=warned,
    )
    found = after_run(ending, history, job["max_failures"])
    with _full_disk():
        page = write_page(run / "logs" / incarnation, job["ranks"])
        if page is not None:
            found = replace(found, reason=f"{found.reason}: {suspects(page)}")
    values: dict[str, Any] = {
        "outcome": ending.outcome,
        "code": code,
        "warned": warned and not ending.outcome,
        "before": ending.before,
        "after": ending.after,
    }
    with _full_disk():
        records.append(run, "end", incarnation=incarnation, decision=found.verb, reason=found.reason, **values)
    return found


@contextmanager
def _full_disk() -> Iterator[None]:
    """What a full disk keeps from being noted does not change what follows: the next start refuses to begin on it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        print(f"not noted: {error}", file=sys.stderr)


def _superseded(history: list[dict[str, Any]], incarnation: str) -> bool:
    """Whether this is a zombie: its node was lost to the scheduler, which has started the job elsewhere meanwhile.

    It must not requeue the job, whose id is the same, nor use up the budget.
    """
    begins = [record["incarnation"] for record in history if record["kind"] == "begin"]
    return bool(begins) and begins[-1] != incarnation


def _is_active() -> bool:
    """Whether the job is still SLURM's to run; one that was cancelled or requeued must not be requeued by itself."""
    job = _job()
    mine = os.environ.get("SLURM_RESTART_COUNT", "0")
    return job.get("JobState", "RUNNING") == "RUNNING" and job.get("Restarts", mine) == mine


def _excluded(job: dict[str, Any]) -> set[str]:
    """Nodes that the job avoids already; its operator's wish holds without a controller, too."""
    lists = {_job().get("ExcNodeList"), job.get("exclude")} - {None, "(null)"}
    return {node for nodes in lists for node in scheduler.hostnames(str(nodes))}


@cache
def _job() -> dict[str, str]:
    """What the controller says about this job; nothing when it does not answer, which cancels nothing."""
    try:
        return scheduler.job(os.environ["SLURM_JOB_ID"])
    except MegabiomedError:
        return {}


def main(arguments: list[str]) -> None:
    verb, run, incarnation, *rest = arguments
    actions = {"begin": begin, "judge": judge}
    try:
        if verb == "end":
            found = end(Path(run), incarnation, int(rest[0]), warned=rest[1] == "yes")
        else:
            found = actions[verb](Path(run), incarnation)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        found = Decision(
            "fail", f"{run} cannot be written ({error.strerror}): make room, then megabiomed resubmit {run}"
        )
    print(found.line())


if __name__ == "__main__":
    main(sys.argv[1:])
