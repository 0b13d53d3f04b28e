"""What an operator does to a submitted run: end it, make it save, hold it, submit it again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import write_atomic, write_json
from megabiomed.launch import records, scheduler
from megabiomed.launch.status import find_runs, submitted_below


def jobs_of(run: Path) -> list[Path]:
    """Run folders with jobs: the run itself, or the stages below a run that is submitted as several.

    Raises:
        LaunchError: nothing was submitted there.
    """
    found = [run] if records.read_job(run) else submitted_below(run)
    if not found:
        raise LaunchError(f"{run} was not submitted", do="megabiomed submit RUN --cluster CLUSTER")
    return found


def ask(run: Path, what: str) -> Path:
    """Leave a request (`save` or `end`) where rank 0 looks at every step."""
    if not run.is_dir():
        raise LaunchError("there is no such run folder", got=run)
    (run / "control").mkdir(exist_ok=True)
    write_atomic(run / "control" / what, records.now() + "\n")
    return run / "control" / what


def cancel(run: Path, save: bool, chain: bool) -> Iterator[str]:
    """End a run for good, and the stages of its chain that wait for it; says what it did as it goes on.

    With `save` a running job leaves by itself after its next step; waiting ones, and commands, are cancelled at once.

    Raises:
        LaunchError: the scheduler refused, after everything else was ended.
    """
    failed: LaunchError | None = None
    for folder in _with_dependents(jobs_of(run)) if chain else jobs_of(run):
        try:
            yield _cancel(folder, save)
        except LaunchError as error:
            failed = error
    if failed is not None:
        raise failed


def _cancel(folder: Path, save: bool) -> str:
    job_id, state = _found(folder)
    if state == "RUNNING" and save and records.read_job(folder)["kind"] != records.COMMAND:
        return f"asked to save and leave: job {job_id} ({ask(folder, 'end')})"
    if state not in scheduler.ACTIVE:
        return f"nothing to cancel: job {job_id} ({state})"
    ask(folder, "end")
    scheduler.call("scancel", job_id)
    return f"cancelled: job {job_id} ({state})"


def scontrol(run: Path, verb: str) -> Iterator[str]:
    """`scontrol hold` or `release` of the jobs of a run that wait."""
    for folder in jobs_of(run):
        job_id, state = _found(folder)
        if state == "PENDING":
            scheduler.call("scontrol", verb, job_id)
            yield f"{verb}: job {job_id}"
        else:
            yield f"nothing to {verb}: job {job_id} ({state})"


def resubmit(run: Path, only: str, dry_run: bool) -> Iterator[str]:
    """Submit the stored scripts of a chain again: stages that are finished or in the queue are left out.

    Args:
        only: `failed` for the whole chain, `this` for the one run.
    """
    if only not in ("failed", "this"):
        raise LaunchError("--only has no such choice", got=repr(only), expected="failed or this")
    ids: dict[str, str] = {}
    runs = find_runs(jobs_of(run)[0]) if only == "failed" else jobs_of(run)
    with ExitStack() as held:
        if not dry_run:
            scheduler.need("sbatch")
            held.enter_context(records.submitting(runs))
        for folder in runs:
            record = records.read_job(folder)
            job_id, state = _found(folder)
            if records.last_event(folder).get("event") == "finished":
                yield f"finished: {record['stage']}"
            elif state in scheduler.ACTIVE:
                ids[record["stage"]] = job_id
                yield f"in the queue: {record['stage']}: job {job_id} ({state})"
            elif dry_run:
                yield f"would submit: {record['stage']}: {folder / records.SLURM / 'job.sh'}"
            else:
                ids[record["stage"]] = _again(folder, [ids[name] for name in record["after"] if name in ids])
                yield f"submitted: {record['stage']}: job {ids[record['stage']]}"


def _again(run: Path, after: list[str]) -> str:
    """Submit a stored script with a fresh budget; returns the job id."""
    record, file = records.read_job(run), run / records.SLURM / records.JOB
    for folder in record["controls"]:
        (Path(folder) / records.KILL_SWITCH).unlink(missing_ok=True)
    records.renew(run)
    write_json(file, record | {"job_id": None})
    job_id = scheduler.submit((run / records.SLURM / "job.sh").absolute(), after)
    write_json(file, record | {"job_id": job_id})
    return job_id


def _found(run: Path) -> tuple[str, str]:
    """Id and state of the job of a run."""
    found = scheduler.job_of(run)
    return found.get("JobId") or str(records.read_job(run).get("job_id")), found.get("JobState", "not in the queue")


def _with_dependents(runs: list[Path]) -> list[Path]:
    """Runs, and the stages of their chain that come after them, directly or not."""
    found, names = list(runs), {records.read_job(run)["stage"] for run in runs}
    known = {run.absolute() for run in runs}
    for folder in find_runs(runs[0]):
        record = records.read_job(folder)
        if names & set(record["after"]) and folder.absolute() not in known:
            names.add(record["stage"])
            found.append(folder)
    return found
