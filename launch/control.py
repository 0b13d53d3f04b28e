"""What an operator can do to a submitted run: end it, make it save, hold it, submit it again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from megabiomed.checkpoint.fence import holder
from megabiomed.ground.errors import LaunchError, UserError
from megabiomed.ground.files import write_atomic, write_json
from megabiomed.ground.places import same_place
from megabiomed.launch import records, scheduler, sharing, sweep
from megabiomed.launch.again import outdated
from megabiomed.launch.change import UNCHANGED, Change, changed, refuse_running, replace_job
from megabiomed.launch.pending import explained, is_shut_out
from megabiomed.launch.prospects import hopeless
from megabiomed.launch.status import find_runs, submitted_below


def jobs_of(run: Path) -> list[Path]:
    """Run folders with jobs: the run itself, or the stages below a run that is submitted as several.

    Raises:
        LaunchError: nothing was submitted there.
    """
    runs = [run] if records.read_job(run) else submitted_below(run)
    if not runs:
        raise LaunchError(f"{run} was not submitted", do="megabiomed submit RUN --cluster CLUSTER")
    return runs


def ask(run: Path, what: str) -> Path:
    """Leave a request (`save` or `end`) where rank 0 looks at every step."""
    if not run.is_dir():
        raise LaunchError("there is no such run folder", got=run)
    with sharing.permissions(sharing.of_run(run)), sharing.in_one_line(run):
        (run / "control").mkdir(exist_ok=True)
        write_atomic(run / "control" / what, records.now() + "\n")
    return run / "control" / what


def save(run: Path) -> str:
    """Ask a run to save at its next step; returns what to tell.

    Raises:
        LaunchError: it does not run, so that the request would wait in its folder and fire in a later start.
    """
    if sweep.is_sweep(run):
        raise LaunchError(f"{run} is a sweep", do=f"name one of its runs: megabiomed sweep {run}")
    folders = [run] if records.read_job(run) else submitted_below(run)
    if run.is_dir() and all(records.is_finished(folder) for folder in folders or [run]):
        raise LaunchError(f"nothing to save: {run} is finished", do=f"megabiomed status {run}")
    unsure = ""
    if folders and not any(_runs_by_hand(folder) for folder in folders):
        try:
            states = [scheduler.job_of(folder, False).get("JobState", "not in the queue") for folder in folders]
        except LaunchError:
            states, unsure = [], ", if it runs (the scheduler does not answer)"
        if states and not set(states) & set(scheduler.STARTED):
            raise LaunchError(
                f"nothing to save: {run} does not run", got=", ".join(states), do="ask again when it runs"
            )
    return f"asked{unsure}: {ask(run, 'save')}; `megabiomed status` shows the new step under `saved`"


def _runs_by_hand(run: Path) -> bool:
    """Whether the newest start of a run was no job, so that the scheduler knows nothing of it."""
    try:
        owner = holder(run).rpartition("-")[0]
    except (UserError, OSError):
        return False
    return owner not in ("", records.RESUBMITTED) and not owner.partition(".")[0].isdigit()


def cancel(run: Path, save: bool, chain: bool) -> Iterator[str]:
    """End a run for good, and the stages of its chain that wait for it; yields what it did, job by job.

    With `save` a running job leaves by itself after its next step; waiting ones, and commands, are cancelled at once. The
    switch is set before the scheduler is asked, so a run ends also while its controller is away.

    Raises:
        LaunchError: the scheduler refused a job; all others were ended before that.
    """
    # Whoever cancels wants the nodes free: one job that cannot be cancelled must not keep the others running.
    failed: LaunchError | None = None
    for folder in _with_dependents(jobs_of(run)) if chain else jobs_of(run):
        try:
            yield _cancel(folder, save)
        except LaunchError as error:
            failed = error
    if failed is not None:
        raise failed


def _cancel(folder: Path, save: bool) -> str:
    # The switch first: a job that SLURM requeues in this moment finds it and leaves, and so does one whose controller is away.
    set_before = (folder / records.KILL_SWITCH).exists()
    switch = ask(folder, "end")
    obeyed = save and records.read_job(folder)["kind"] != records.COMMAND
    try:
        job_id, state = _id_and_state(folder, scheduler.job_of(folder, patient=not obeyed))
    except LaunchError as error:
        if obeyed:
            return f"asked to save and leave, now or when it starts: the scheduler does not answer ({switch})"
        raise LaunchError(
            f"the job of {folder} was not cancelled", got=error.got,
            do=f"it leaves by itself after its next step ({switch}); cancel it again when the scheduler answers",
        ) from None  # fmt: skip
    if state == "RUNNING" and obeyed:
        return f"asked to save and leave: job {job_id} ({switch})"
    if state not in scheduler.ACTIVE:
        if not set_before:  # a start by hand would end at once
            switch.unlink(missing_ok=True)
        return f"nothing to cancel: {_named(job_id)} ({state})"
    try:
        scheduler.call("scancel", job_id)
    except LaunchError as error:  # the job of another user, say: the switch counts all the same
        later = f"it leaves by itself, saved, after its next step or when it starts ({switch})"
        raise LaunchError(f"job {job_id} was not cancelled", got=error, do=later) from None
    return f"cancelled: job {job_id} ({state})"


def _named(job_id: str) -> str:
    return f"job {job_id}" if job_id else "no job was submitted"


def scontrol(run: Path, verb: str) -> Iterator[str]:
    """`scontrol hold` or `release` for the waiting jobs of a run; one that is shut out of too many nodes is let in again."""
    for folder in jobs_of(run):
        was_paused = verb == "release" and records.resume(
            folder
        )  # first: a job that is about to be held looks once more
        job = scheduler.job_of(folder)
        job_id, state = _id_and_state(folder, job)
        if state in scheduler.WAITING:
            let_in = _let_in(folder, job) if verb == "release" else ""
            if not let_in:  # or it may have started already
                scheduler.call("scontrol", verb, job_id)
            yield f"{verb}: job {job_id}{let_in}"
        elif was_paused and state in scheduler.ACTIVE:
            yield f"{verb}: job {job_id} is not paused any more ({state})"
        else:
            yield f"nothing to {verb}: {_named(job_id)} ({state})"


def _let_in(folder: Path, job: dict[str, str]) -> str:
    """Let a job use the nodes again that were found bad, when it can start nowhere else; those of its operator stay out."""
    if not is_shut_out(job):
        return ""
    own = records.read_job(folder).get("exclude") or ""
    scheduler.call("scontrol", "update", f"jobid={job['JobId']}", f"excnodelist={own}")
    return f" (excluded nodes are tried again: {job['ExcNodeList']})"


def resubmit(run: Path, only: str, dry_run: bool, change: Change = UNCHANGED) -> Iterator[str]:
    """Submit the stored scripts of a chain again: stages that are finished or in the queue are left out.

    Args:
        only: `failed` for the whole chain, `this` for the one run.
        change: what is to be otherwise in the jobs of this run; those of its chain stay as they are.
    """
    if only not in ("failed", "this"):
        raise LaunchError("--only has no such choice", got=repr(only), expected="failed or this")
    if sweep.is_sweep(run):
        for member in sweep.submitted(run):
            yield from resubmit(member, only, dry_run, change)
        return
    ids: dict[str, str] = {}
    mine = jobs_of(run)
    runs = find_runs(mine[0]) if only == "failed" else mine
    with ExitStack() as locks:
        if not dry_run:
            scheduler.need("sbatch")
            locks.enter_context(sharing.permissions(sharing.of_run(mine[0])))
            locks.enter_context(records.submitting(runs))
            locks.enter_context(sharing.in_one_line(mine[0]))
        _need_secrets(runs)
        submitted: dict[str, str] = {}
        for folder in runs:
            wished = change if any(same_place(folder, other) for other in mine) else UNCHANGED
            yield (said := _resubmit(folder, ids, dry_run, wished))
            stage = records.read_job(folder)["stage"]
            if said.startswith("submitted"):
                submitted[stage] = ids[stage]
        for stage, (reason, why) in hopeless(submitted).items():
            yield f"would never start: {stage}: job {ids[stage]} ({reason}): {why}"


def _need_secrets(runs: list[Path]) -> None:
    """Refuse stages whose scripts take credentials from this environment, which lacks them."""
    for folder in runs:
        missing = [name for name in records.read_job(folder).get("secrets", []) if not os.environ.get(name)]
        if missing and records.last_event(folder).get("event") != "finished":
            raise LaunchError(
                f"{folder} needs credentials, which are stored nowhere",
                got=f"{', '.join(missing)} not set",
                do="export them and run this again, or submit again with the cluster file that has them",
            )


def _resubmit(folder: Path, ids: dict[str, str], dry_run: bool, change: Change) -> str:
    """Submit one stage again if it needs to be; `ids` are those of the stages before it, and gain its own."""
    record = records.read_job(folder)
    stage = record["stage"]
    # A finished stage has no id here, so what comes after it does not wait for it.
    if records.is_finished(folder):
        again = [
            Path(before) for before in record.get("before", []) if records.read_job(Path(before)).get("stage") in ids
        ]
        cause = outdated(folder, map(Path, record.get("before", [])), again)
        if cause is None or record["kind"] != records.COMMAND:
            return f"finished: {stage}" + (f", from an earlier result: {cause}" if cause else "")
    if (before := records.was_moved(folder, record)) is not None:
        raise LaunchError(
            f"{folder} was moved after it was submitted", got=f"a script for {before}",
            do=f"submit the run file again with run_dir={folder.absolute()}, or move the folder back",
        )  # fmt: skip
    if change:
        return _resubmit_changed(folder, ids, dry_run, change)
    job = scheduler.job_of(folder)
    job_id, state = _id_and_state(folder, job)
    if state in scheduler.ACTIVE:
        ids[stage] = job_id
        let_in = "" if dry_run else _let_in(folder, job)
        why = None if let_in else explained(job)
        return f"in the queue: {stage}: job {job_id} ({state}){let_in}" + (f": {why}" if why else "")
    if dry_run:
        return f"would submit: {stage}: {folder / records.SLURM / records.SCRIPT}"
    ids[stage] = _again(folder, [ids[name] for name in record["after"] if name in ids])
    return f"submitted: {stage}: job {ids[stage]}"


def _resubmit_changed(folder: Path, ids: dict[str, str], dry_run: bool, change: Change) -> str:
    """As `_resubmit`, with a new script; a job that waits is replaced."""
    record = records.read_job(folder)
    stage = record["stage"]
    if not dry_run:
        refuse_running(folder)
    job = changed(folder, change)
    if dry_run:
        return f"would submit: {stage}: {change}"
    ids[stage] = replace_job(folder, job, [ids[name] for name in record["after"] if name in ids])
    return f"submitted: {stage}: job {ids[stage]} ({change})"


def _again(run: Path, after: list[str]) -> str:
    """Submit a stored script with a fresh budget; returns the job id."""
    record, file = records.read_job(run), run / records.SLURM / records.JOB
    for folder in record["controls"]:
        for switch in (records.KILL_SWITCH, records.PAUSE):
            (Path(folder) / switch).unlink(missing_ok=True)
    records.renew(run)
    # No id while it is being submitted: the old one would be taken for the new job's, should this process die now.
    write_json(file, record | {"job_id": None})
    job_id = scheduler.submit((run / records.SLURM / records.SCRIPT).absolute(), after)
    write_json(file, record | {"job_id": job_id})
    return job_id


def _id_and_state(run: Path, job: dict[str, str]) -> tuple[str, str]:
    """Id (empty when none is known) and state of the job of a run, by what the scheduler says of it."""
    return job.get("JobId") or records.read_job(run).get("job_id") or "", job.get("JobState", "not in the queue")


def _with_dependents(runs: list[Path]) -> list[Path]:
    """Runs, and the stages of their chain that come after them, directly or indirectly."""
    selected, names = list(runs), {records.read_job(run)["stage"] for run in runs}
    for folder in find_runs(runs[0]):
        record = records.read_job(folder)
        if names & set(record["after"]) and not any(same_place(folder, run) for run in selected):
            names.add(record["stage"])
            selected.append(folder)
    return selected
