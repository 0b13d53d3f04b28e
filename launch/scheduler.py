"""SLURM's commands, called without a shell; answers parsed tolerantly, because formats differ between versions."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from megabiomed.errors import LaunchError
from megabiomed.launch import records

_TIMEOUT_S = 60.0
_RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0)
_AWAY = ("Unable to contact slurm controller", "Socket timed out", "Connection refused", "Zero Bytes were transmitted")
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING")


def call(*command: str, patient: bool = True) -> str:
    """Output of a SLURM command; a controller that is away for a moment (restart, failover) is asked again.

    Args:
        patient: false for somebody who looks and will look again.

    Raises:
        LaunchError: with SLURM's own words.
    """
    need(command[0])
    for pause in (*_RETRY_S, None):
        done = _run(*command)
        if done.returncode == 0:
            return done.stdout
        if pause is None or not patient or not any(words in done.stderr for words in _AWAY):
            break
        time.sleep(pause)
    raise LaunchError(f"{command[0]} refused", got=done.stderr.strip() or f"exit code {done.returncode}")


def need(program: str) -> None:
    """Refuse a machine without a SLURM command."""
    if shutil.which(program) is None:
        raise LaunchError(f"{program} is not installed here", do="run this on a login node, or use --dry-run")


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    """A command that hangs, or that vanished, is a LaunchError like one that is refused: callers decide what follows."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{command[0]} did not answer",
            got=f"nothing in {_TIMEOUT_S:.0f} s",
            do="try again when the scheduler is well",
        ) from None
    except OSError as error:
        raise LaunchError(f"{command[0]} cannot be started", got=error) from error


def check_script(script: Path) -> str:
    """What the scheduler would do with a script (`sbatch --test-only`); raises LaunchError where it would refuse."""
    found = _run("sbatch", "--test-only", str(script))
    said = (found.stderr or found.stdout).strip()
    if found.returncode:
        raise LaunchError(f"the scheduler refuses {script}", got=said, do="correct the cluster file or the stage")
    return said.removeprefix("sbatch: ")


def submit(script: Path, after: list[str]) -> str:
    """Submit a script that waits for jobs to succeed; returns the job id. A wait that can never end is cancelled."""
    wait = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    return call("sbatch", "--parsable", *wait, str(script)).strip().split(";")[0]


def job(job_id: str, patient: bool = True) -> dict[str, str]:
    """Fields of `scontrol show job`; empty for one that SLURM no longer remembers. Of several components the first counts."""
    try:
        text = call("scontrol", "-o", "show", "job", job_id, patient=patient)
    except LaunchError as error:
        if "Invalid job id" in str(error.got):
            return {}
        raise
    lines = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines() if line]
    if not lines:
        return {}
    found = min(lines, key=lambda fields: int(fields.get("JobId", "0")))
    nodes = [line["NodeList"] for line in lines if line.get("NodeList") not in (None, "(null)")]
    return found | ({"NodeList": ",".join(nodes)} if nodes else {})


def job_of(run: Path, patient: bool = True) -> dict[str, str]:
    """The job of a run, as `job`; empty when there is none, or when its id now belongs to somebody else's job.

    A controller that lost its last seconds gives job ids a second time.
    """
    job_id = records.read_job(run).get("job_id")
    found = job(str(job_id), patient) if job_id else {}
    return found if found.get("Command") == str(run.absolute() / records.SLURM / "job.sh") else {}


def hostnames(nodes: str) -> list[str]:
    """Names behind a compressed list such as `n[1-3]`."""
    return call("scontrol", "show", "hostnames", nodes).split()
