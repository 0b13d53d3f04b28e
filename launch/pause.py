"""`megabiomed pause`: a run saves and leaves its nodes, and its job waits, held, until `megabiomed release`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.control import ask, jobs_of
from megabiomed.launch.stage_in.report import of_start


def pause(run: Path) -> Iterator[str]:
    """Ask a run to save, leave and wait, held, in the queue; yields what to tell, job by job.

    The switch is set before the scheduler is asked: it is obeyed by the ranks at their next step, by the batch script where it
    would requeue the job, and by the next start. So a run pauses also while its controller is away.

    Raises:
        LaunchError: nothing was submitted, or a run is not in the queue; all others were paused before that.
    """
    failed: LaunchError | None = None
    for folder in jobs_of(run):
        try:
            yield _pause(folder)
        except LaunchError as error:
            failed = error
    if failed is not None:
        raise failed


def _pause(folder: Path) -> str:
    if records.is_finished(folder):
        return f"nothing to pause: {folder} is finished"
    was_set = (folder / records.PAUSE).exists()
    switch = ask(folder, records.PAUSE.name)
    try:
        job = scheduler.job_of(folder, patient=False)
    except LaunchError:
        return f"asked to save and wait, now or when it starts: the scheduler does not answer ({switch})"
    job_id, state = job.get("JobId", ""), job.get("JobState", "not in the queue")
    if state in scheduler.WAITING:
        scheduler.call("scontrol", "hold", job_id)
        return f"paused: job {job_id} waits, held"
    if state in scheduler.ACTIVE:
        # A command looks at no switch, and nodes that copy neither; the script ends them, as at its limit.
        tell = ("scancel", "--batch", "--signal=USR1", job_id)
        if records.read_job(folder)["kind"] == records.COMMAND:
            scheduler.call(*tell)
        elif of_start(folder / "logs" / str(records.last_begin(folder).get("incarnation"))) == {}:
            with suppress(LaunchError):  # the job of another user: its ranks will look
                scheduler.call(*tell)
        return f"asked to save and wait: job {job_id} ({switch})"
    if not was_set:  # a start by hand would leave at once
        switch.unlink(missing_ok=True)
    raise LaunchError(f"nothing to pause: {folder} is not in the queue", got=state, do=f"megabiomed status {folder}")
