"""What an operator does to a submitted run: end it, make it save, hold it, submit it again."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.files import write_atomic, write_json
from megabiomed.errors import LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.status import find_runs


def job_id_of(run: Path) -> str:
    """Job id of a submitted run; one that was never submitted is a `LaunchError`."""
    found = records.read_job(run).get("job_id")
    if not found:
        raise LaunchError(f"{run} was not submitted", do="megabiomed submit RUN --cluster CLUSTER")
    return str(found)


def ask(run: Path, what: str) -> Path:
    """Leave a request (`save` or `end`) where rank 0 looks at every step."""
    if not run.is_dir():
        raise LaunchError("there is no such run folder", got=run)
    (run / "control").mkdir(exist_ok=True)
    write_atomic(run / "control" / what, records.now() + "\n")
    return run / "control" / what


def cancel(run: Path, save: bool, chain: bool) -> list[str]:
    """End a run for good, and the stages of its chain that wait for it.

    With `save` a running job leaves by itself after its next step; waiting ones are cancelled at once.
    """
    said = []
    for folder in _with_dependents(run) if chain else [run]:
        job_id = job_id_of(folder)
        state = scheduler.job(job_id).get("JobState", "not in the queue")
        if state == "RUNNING" and save:
            said.append(f"asked to save and leave: job {job_id} ({ask(folder, 'end')})")
        elif state in scheduler.ACTIVE:
            ask(folder, "end")
            scheduler.call("scancel", job_id)
            said.append(f"cancelled: job {job_id} ({state})")
        else:
            said.append(f"nothing to cancel: job {job_id} ({state})")
    return said


def scontrol(run: Path, verb: str) -> str:
    """`scontrol hold` or `release` of a run's job."""
    job_id = job_id_of(run)
    scheduler.call("scontrol", verb, job_id)
    return f"{verb}: job {job_id}"


def resubmit(run: Path, only: str, dry_run: bool) -> list[str]:
    """Submit the stored scripts of a chain again: stages that are finished or in the queue are left out.

    Args:
        only: `failed` for the whole chain, `this` for the one run.
    """
    if only not in ("failed", "this"):
        raise LaunchError("--only has no such choice", got=repr(only), expected="failed or this")
    ids: dict[str, str] = {}
    said = []
    for folder in find_runs(run) if only == "failed" else [run]:
        record = records.read_job(folder)
        state = scheduler.job(job_id_of(folder)).get("JobState")
        if records.last_event(folder).get("event") == "finished":
            said.append(f"finished: {record['stage']}")
        elif state in scheduler.ACTIVE:
            ids[record["stage"]] = record["job_id"]
            said.append(f"in the queue: {record['stage']}: job {record['job_id']} ({state})")
        elif dry_run:
            said.append(f"would submit: {record['stage']}: {folder / records.SLURM / 'job.sh'}")
        else:
            (folder / "control" / "end").unlink(missing_ok=True)
            records.append(
                folder, "end", incarnation="resubmit", outcome="resubmitted", reason="submitted again by hand"
            )
            after = [ids[name] for name in record["after"] if name in ids]
            ids[record["stage"]] = scheduler.submit(folder / records.SLURM / "job.sh", after)
            write_json(folder / records.SLURM / records.JOB, record | {"job_id": ids[record["stage"]]})
            said.append(f"submitted: {record['stage']}: job {ids[record['stage']]}")
    return said


def _with_dependents(run: Path) -> list[Path]:
    """A run and the stages of its chain that come after it, directly or not."""
    found, names = [run], {records.read_job(run)["stage"]} if records.read_job(run) else set()
    for folder in find_runs(run) if names else []:
        record = records.read_job(folder)
        if names & set(record["after"]):
            names.add(record["stage"])
            found.append(folder)
    return found
