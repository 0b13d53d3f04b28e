"""`python -m megabiomed.launch.agent begin|judge|end`: the batch script's decisions, on the first node, without torch."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from megabiomed.errors import MegabiomedError
from megabiomed.launch import records, scheduler
from megabiomed.launch.decision import Decision, Ending, after_preflight, after_run, before_run
from megabiomed.launch.hang_page import suspects
from megabiomed.launch.preflight_verdict import bad_nodes

HUNG = 75  # megabiomed.train.hang, which imports torch
NODES = "MEGABIOMED_NODES"  # of all components; SLURM_JOB_NODELIST holds those of the first
KILL_SWITCH = Path("control") / "end"


def begin(run: Path, incarnation: str) -> Decision:
    """Decide whether an incarnation may begin, and note that it did."""
    step, job = records.committed_step(run), records.read_job(run)
    finished = records.last_event(run).get("event") == "finished"
    history = records.history(run)
    found = before_run(finished, (run / KILL_SWITCH).exists(), history, step, job["max_failures"])
    kind = "begin" if found.verb == "run" else "refused"
    (run / records.SLURM / records.VERDICTS).mkdir(exist_ok=True)
    nodes = os.environ.get(NODES, "")
    records.append(run, kind, incarnation=incarnation, step=step, nodes=nodes, reason=found.reason)
    return found


def judge(run: Path, incarnation: str) -> Decision:
    """Compare the nodes' preflights."""
    job = records.read_job(run)
    nodes = scheduler.hostnames(os.environ[NODES])
    bad = bad_nodes(run, incarnation, nodes, job["slow_factor"])
    found = after_preflight(bad, len(nodes), records.history(run), job["max_failures"])
    records.append(run, "preflight", incarnation=incarnation, exclude=list(found.exclude), reason=found.reason)
    return found


def end(run: Path, incarnation: str, code: int, warned: bool) -> Decision:
    """Decide what follows an incarnation, and note it."""
    history, job = records.history(run), records.read_job(run)
    mine = [record for record in history if record["kind"] == "begin" and record["incarnation"] == incarnation]
    ending = Ending(
        outcome=str(records.verdict(run, incarnation).get("outcome", "")),
        code=code,
        active=_is_active(),
        before=mine[-1]["step"] if mine else 0,
        after=records.committed_step(run),
        warned=warned,
    )
    found = after_run(ending, history, job["max_failures"])
    if code == HUNG:
        said = suspects(run / "logs" / incarnation, job["ranks"])
        found = replace(found, reason=f"{found.reason}: {said}")
    values: dict[str, Any] = {
        "outcome": ending.outcome,
        "code": code,
        "warned": warned and not ending.outcome,
        "before": ending.before,
        "after": ending.after,
    }
    records.append(run, "end", incarnation=incarnation, decision=found.verb, reason=found.reason, **values)
    return found


def _is_active() -> bool:
    """Whether the job is still SLURM's to run; one that was cancelled or requeued must not be requeued by itself."""
    try:
        return scheduler.job(os.environ["SLURM_JOB_ID"]).get("JobState") == "RUNNING"
    except MegabiomedError:
        return True  # a controller that does not answer has not cancelled anything


def main(arguments: list[str]) -> None:
    verb, run, incarnation, *rest = arguments
    actions = {"begin": begin, "judge": judge}
    if verb == "end":
        found = end(Path(run), incarnation, int(rest[0]), warned=rest[1] == "yes")
    else:
        found = actions[verb](Path(run), incarnation)
    print(found.line())


if __name__ == "__main__":
    main(sys.argv[1:])
