"""`python -m megabiomed.launch.agent begin|judge|end`: the batch script's decisions, on the first node, without torch.

Without torch, because importing it takes seconds to minutes on shared storage, and the agent's last call runs after the
time limit's warning.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import Fence
from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import elastic, records, restart, scheduler
from megabiomed.launch.avoid import as_far_as_possible, of_operator, without_accused, without_repeated
from megabiomed.launch.causes import Failure, first_failure
from megabiomed.launch.decision import AGAIN, WRONG_INPUT, Decision, Ending, after_preflight, after_run, before_run
from megabiomed.launch.drain import drain
from megabiomed.launch.preflight_verdict import bad_nodes, is_slow
from megabiomed.launch.room import few_files, lacking
from megabiomed.launch.stage_in.report import copied_seconds
from megabiomed.launch.status import reported_step
from megabiomed.launch.successor import TAKEN_OVER, after_takeover, claimed, has_successor, other_job, owner
from megabiomed.launch.unwritable import after_refusal, make_room, unwritable
from megabiomed.processes import gpu_health
from megabiomed.processes.hang_page import suspects, write_page

NODES = "MEGABIOMED_NODES"  # of all components; SLURM_JOB_NODELIST has those of the first only


def begin(run: Path, incarnation: str) -> Decision:
    """Decide whether an incarnation may begin; if it is this run's newest start, claim the run for it, and note it."""
    step, job = records.committed_step(run), records.read_job(run)
    if other := other_job(run, job.get("job_id")):
        return Decision("fail", f"job {other} is the job of this run")
    if has_successor(run, incarnation):
        return TAKEN_OVER
    fence = Fence.claim(run, owner(incarnation))
    finished = records.last_event(run).get("event") == "finished"
    history = records.history(run)
    killed = any((Path(folder) / records.KILL_SWITCH).exists() for folder in job["controls"])
    decision = before_run(finished, killed, history, step, job["max_failures"])
    if decision.verb == "run" and records.is_paused(run):
        decision = Decision("requeue", "paused")  # the batch script holds the job
    # A start without room for its next checkpoint would compute until its first save and lose all of that.
    if decision.verb == "run" and (short := lacking(run) or few_files(run)):
        decision = Decision("fail", f"{run} has no room for a checkpoint: {short}: {make_room(run)}")
    nodes = os.environ.get(NODES, "")
    decision, size = elastic.here(decision, job, _job() if elastic.sizes_of(job) else {}, history, nodes)
    kind = {"run": "begin", "requeue": elastic.WAITS}.get(decision.verb, "refused")
    (run / records.SLURM / records.VERDICTS).mkdir(exist_ok=True)
    # Noted before the start: an incarnation that vanishes is recognised by a beginning without an end, and a zombie by a
    # beginning after its own.
    noted = records.append(
        run, kind, fence, incarnation=incarnation, step=step, nodes=nodes, reason=decision.reason,
        lost_steps=max(0, reported_step(run) - step), **{records.INPUTS: _inputs(job)}, **restart.placed(nodes), **size,
    )  # fmt: skip
    return decision if noted else after_takeover(run, owner(incarnation))


def _inputs(job: dict[str, Any]) -> dict[str, int]:
    """From which results of the stages before it a start begins."""
    finishes = {folder: records.finish(Path(folder)) for folder in job.get("before", [])}
    return {folder: claim for folder, claim in finishes.items() if claim is not None}


def judge(run: Path, incarnation: str) -> Decision:
    """Compare the nodes' preflights."""
    job = records.read_job(run)
    fence, lost = claimed(run, incarnation)
    if lost:
        return after_takeover(run, owner(incarnation))
    nodes = scheduler.hostnames(os.environ[NODES])
    bad = bad_nodes(run, incarnation, nodes, job["slow_factor"])
    decision = after_preflight(bad, len(nodes), records.history(run), job["max_failures"])
    own: set[str] = set()
    place = restart.allocation(job, nodes)
    if bad and (chosen := place.choose(bad)) is not None:
        decision = restart.on_spares(bad, chosen)
    elif decision.exclude:
        own = of_operator(run, job, _job())
        decision = as_far_as_possible(run, decision, bad, own, _job(), elastic.least(job, place.needed))
    left_out = sorted(bad) if decision.nodes else [node for node in decision.exclude if node not in own]
    outcome = {
        "exclude": left_out,
        "all": len(bad) == len(nodes),
        "decision": decision.verb,
        "reason": decision.reason,
    }
    if not records.append(run, "preflight", fence, incarnation=incarnation, **outcome):
        return after_takeover(run, owner(incarnation))
    # A slow node may only have had other work for a moment.
    drain(run, {node: why for node, why in bad.items() if node in left_out and not is_slow(why)})
    return decision


def end(run: Path, incarnation: str, code: int, warned: bool) -> Decision:
    """Decide what follows an incarnation, and note it."""
    history, job = records.history(run), records.read_job(run)
    mine = [record for record in history if record["kind"] == "begin" and record["incarnation"] == incarnation]
    fence, lost = claimed(run, incarnation)
    if lost:
        return after_takeover(run, owner(incarnation))
    told = records.verdict(run, incarnation)
    outcome = str(told.get("outcome", ""))
    accused = gpu_health.bad_nodes(run / "logs" / incarnation) | records.bad_nodes(told)
    # A command knows nothing of verdicts; its exit code is all there is.
    if job["kind"] == records.COMMAND and code == 0:
        outcome = "finished"
        with unwritable():
            records.note_event(run, "finished", fence)  # as a training run does itself
    failure = first_failure(run, incarnation) if code and not outcome else None
    ending = Ending(
        outcome=outcome,
        # srun's code for a program that is not there is the one of a wrong input.
        code=1 if failure is not None and failure.blames_node and code == WRONG_INPUT else code,
        active=_is_active(),
        before=mine[-1]["step"] if mine else 0,
        after=records.committed_step(run),
        warned=warned,
        **_times(run, mine[-1] if mine and job["kind"] != records.COMMAND and not records.is_paused(run) else {}),
    )
    decision = _with_cause(run, incarnation, after_run(ending, history, job["max_failures"]), ending, failure)
    decision, excluded = _on_nodes(run, incarnation, decision, ending, failure, accused)
    if not _note_end(run, incarnation, fence, ending, decision, failure, excluded):
        return after_takeover(run, owner(incarnation))
    drain(run, accused)
    return decision


def _on_nodes(
    run: Path, incarnation: str, decision: Decision, ending: Ending, failure: Failure | None, accused: dict[str, str]
) -> tuple[Decision, list[str]]:
    """The next start on the nodes that this job has, or a requeue on others; and the nodes that this start leaves out."""
    history, job = records.history(run), records.read_job(run)
    place = restart.allocation(job, _nodes())
    bad = restart.replaced_before(history, incarnation)
    why = restart.refused(job, decision, ending, accused) if place.nodes else ""
    if why is None:
        decision, left_out = restart.restarted(run, incarnation, place, decision, failure, accused)
        if decision.verb == AGAIN:
            return decision, sorted(left_out)
        bad |= left_out  # one that is gone looks idle to the scheduler for minutes
    elif why:
        decision = replace(decision, reason=f"{decision.reason}; not restarted in the allocation: {why}")
    needed = elastic.least(job, place.needed)
    decision = without_repeated(run, decision, failure, _job(), needed)
    if bad | accused:
        wish = without_accused(run, decision, bad | accused, _job(), needed, len(place.nodes))
        # One that only did not answer may come back: the scheduler waits for it, where no other is left.
        decision = wish if accused or wish.verb == "requeue" else decision
    excluded = [node for node in bad | accused if node in decision.exclude]
    if not excluded and failure is not None and failure.suspect is not None and decision.exclude:
        excluded = [failure.suspect]
    return decision, excluded


def _with_cause(run: Path, incarnation: str, decision: Decision, ending: Ending, failure: Failure | None) -> Decision:
    """A decision with what ended the start: the page about a hang, or the first task that failed."""
    job = records.read_job(run)
    with unwritable():
        page = write_page(run / "logs" / incarnation, elastic.ranks_of(job, records.last_begin(run)))
        if page is not None:
            return replace(decision, reason=f"{decision.reason}: {suspects(page)}")
    # A start that was asked to leave ends its tasks itself.
    if ending.active and failure is not None and not (ending.warned and failure.follows):
        return replace(decision, reason=f"{decision.reason}: {failure}")
    return replace(decision, reason=f"{decision.reason}: see rank_0.log") if decision.code == WRONG_INPUT else decision


def _note_end(
    run: Path,
    incarnation: str,
    fence: Fence | None,
    ending: Ending,
    decision: Decision,
    failure: Failure | None,
    excluded: list[str],
) -> bool:
    """Whether the end of a start stands in the records, or cannot be written; False when a later start has the run."""
    values: dict[str, Any] = {
        "outcome": ending.outcome,
        "code": ending.code,
        "warned": ending.warned and not ending.outcome,
        "before": ending.before,
        "after": ending.after,
    }
    values |= {"crawled": True} if ending.outcome == "stopped" and ending.crawled else {}
    values |= {"first_failure": failure.record()} if failure is not None else {}
    values |= {"exclude": excluded} if excluded else {}
    values |= {"decision": decision.verb, "reason": decision.reason}
    with unwritable():
        return records.append(run, "end", fence, incarnation=incarnation, **values)
    return True


def _nodes() -> list[str]:
    """Nodes of this start; empty when the controller does not answer."""
    try:
        return scheduler.hostnames(os.environ[NODES])
    except (MegabiomedError, KeyError):
        return []


def _times(run: Path, begin: dict[str, Any]) -> dict[str, float]:
    """How long a start lasted, and how long it trained: from its first step on, by the clock of the head node."""
    first = records.last_event(run, "phases")
    try:
        began, now = (datetime.fromisoformat(time) for time in (begin["time"], records.now()))
        stepped = datetime.fromisoformat(first["time"]) if "time" in first else None
    except (KeyError, ValueError):
        return {}
    # The first step of an earlier start says that this one had none.
    trained = (now - stepped).total_seconds() if stepped is not None and stepped >= began else 0.0
    copied = copied_seconds(run / "logs" / begin["incarnation"])
    return {"lasted_s": (now - began).total_seconds(), "trained_s": trained, "copied_s": copied}


def _is_active() -> bool:
    """Whether the job is still SLURM's to run; one that was cancelled or requeued must not be requeued by itself."""
    job = _job()
    mine = os.environ.get("SLURM_RESTART_COUNT", "0")
    return job.get("JobState", "RUNNING") == "RUNNING" and job.get("Restarts", mine) == mine


@cache
def _job() -> dict[str, str]:
    """What the controller says about this job; empty when it does not answer, which is not taken for a cancellation."""
    try:
        return scheduler.job(os.environ["SLURM_JOB_ID"])
    except MegabiomedError:
        return {}


def main(arguments: list[str]) -> None:
    verb, run, incarnation, *rest = arguments
    actions = {"begin": begin, "judge": judge}
    try:
        if verb == "end":
            decision = end(Path(run), incarnation, int(rest[0]), warned=rest[1] == "yes")
        else:
            decision = actions[verb](Path(run), incarnation)
    except OSError as error:
        # No start begins on a full disk: it would compute until its first save and lose all of that.
        decision = after_refusal(Path(run), error)
    print(decision.line())


if __name__ == "__main__":
    main(sys.argv[1:])
