"""`python -m megabiomed.launch.guard RUN`: on another node, watches over the batch script of a job that outlives its nodes.

With sbatch's `--no-kill` SLURM does not requeue a job whose head node is lost: it would stay RUNNING without a script until
its time limit.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import records, scheduler

ALIVE = "alive"
"""The batch script touches it every second while its ranks run, and not while the nodes copy what they read."""
STALE_S = 60.0
_PAUSE_S = 5.0


def is_headless(job: Mapping[str, str], restarts: str) -> bool | None:
    """Whether a job runs without the node of its batch script; None where it is over, or another start of it runs.

    Args:
        job: its fields from the controller.
        restarts: how often it had been requeued before this start.
    """
    if job.get("JobState") != "RUNNING" or job.get("Restarts", restarts) != restarts:
        return None
    return "BatchHost" in job and job["BatchHost"] not in scheduler.hostnames(job["NodeList"])


def main(run: Path) -> None:
    """Requeue the job when its batch script is silent and its node is no longer one of the job's."""
    job_id, restarts = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    seen, since = 0.0, time.monotonic()
    while True:
        time.sleep(_PAUSE_S)
        with suppress(OSError):
            if (touched := (run / records.SLURM / ALIVE).stat().st_mtime) != seen:
                seen, since = touched, time.monotonic()
        # The controller is asked only when the script is silent: it may be busy with a decision.
        if time.monotonic() - since < STALE_S:
            continue
        since = time.monotonic()
        with suppress(LaunchError):  # it is asked again
            headless = is_headless(scheduler.job(job_id), restarts)
            if headless is None:
                return
            if headless:
                scheduler.call("scontrol", "requeue", job_id)
                return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
