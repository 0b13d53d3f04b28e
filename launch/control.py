"""What an operator does to a submitted run: end it, make it save, hold it, submit it again."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.files import write_atomic, write_json
from megabiomed.errors import LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.kinds import COMMAND
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


def cancel(run: Path, save: bool, chain: bool) -> list[str]:
    """End a run for good, and the stages of its chain that wait for it.

    With `save` a running job leaves by itself after its next step; waiting ones, and commands, are cancelled at once.
    """
    said = []
    for folder in _with_dependents(jobs_of(run)) if chain else jobs_of(run):
        job_id, state = _job_id(folder), scheduler.job_of(folder).get("JobState", "not in the queue")
        if state == "RUNNING" and save and records.read_job(folder)["kind"] != COMMAND:
            said.append(f"asked to save and leave: job {job_id} ({ask(folder, 'end')})")
        elif state in scheduler.ACTIVE:
            ask(folder, "end")
            scheduler.call("scancel", job_id)
            said.append(f"cancelled: job {job_id} ({state})")
        else:
            said.append(f"nothing to cancel: job {job_id} ({state})")
    return said


def scontrol(run: Path, verb: str) -> list[str]:
    """`scontrol hold` or `release` of the jobs of a run that wait."""
    said = []
    for folder in jobs_of(run):
        job_id, state = _job_id(folder), scheduler.job_of(folder).get("JobState", "not in the queue")
        if state != "PENDING":
            said.append(f"nothing to {verb}: job {job_id} ({state})")
            continue
        scheduler.call("scontrol", verb, job_id)
        said.append(f"{verb}: job {job_id}")
    return said


def resubmit(run: Path, only: str, dry_run: bool) -> list[str]:
    """Submit the stored scripts of a chain again: stages that are finished or in the queue are left out.

    Args:
        only: `failed` for the whole chain, `this` for the one run.
    """
    if only not in ("failed", "this"):
        raise LaunchError("--only has no such choice", got=repr(only), expected="failed or this")
    ids: dict[str, str] = {}
    said = []
    for folder in find_runs(jobs_of(run)[0]) if only == "failed" else jobs_of(run):
        record = records.read_job(folder)
        state = scheduler.job_of(folder).get("JobState")
        if records.last_event(folder).get("event") == "finished":
            said.append(f"finished: {record['stage']}")
        elif state in scheduler.ACTIVE:
            ids[record["stage"]] = record["job_id"]
            said.append(f"in the queue: {record['stage']}: job {record['job_id']} ({state})")
        elif dry_run:
            said.append(f"would submit: {record['stage']}: {folder / records.SLURM / 'job.sh'}")
        else:
            ids[record["stage"]] = _again(folder, [ids[name] for name in record["after"] if name in ids])
            said.append(f"submitted: {record['stage']}: job {ids[record['stage']]}")
    return said


def _again(run: Path, after: list[str]) -> str:
    """Submit a stored script with a fresh budget; returns the job id."""
    record = records.read_job(run)
    for folder in record["controls"]:
        (Path(folder) / records.KILL_SWITCH).unlink(missing_ok=True)
    records.renew(run)
    job_id = scheduler.submit(run / records.SLURM / "job.sh", after)
    write_json(run / records.SLURM / records.JOB, record | {"job_id": job_id})
    return job_id


def _job_id(run: Path) -> str:
    return str(records.read_job(run).get("job_id"))


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
