"""SLURM's commands, called without a shell; a controller that is away for a moment is asked again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time

from megabiomed.ground.errors import LaunchError

TIMEOUT_S = 60.0
# Half a minute in all for a controller that restarts or fails over; SLURM's own clients give up after 4 s.
RETRY_S = (1.0, 2.0, 4.0, 8.0, 15.0)
# Of sbatch's complaints, those after which the request may have been received all the same.
LOST = ("Socket timed out", "Zero Bytes were transmitted", "Connection reset", "endpoint is not connected")
AWAY = ("Unable to contact slurm controller", "Connection refused", *LOST)
_DENIED = ("Access/permission denied", "Invalid user id")
_OTHERS = "the job is another user's: SLURM lets only that user, and its own operators, do this"
_FROM_SHELL = ("account", "partition", "qos", "reservation", "constraint", "wckey")
"""Options that a site's shell may give by SBATCH_* where the script does not."""


def call(*command: str, patient: bool = True) -> str:
    """Output of a SLURM command; a controller that is away for a moment (restart, failover) is asked again.

    Args:
        patient: False gives up at once, for a caller that will ask again anyway (`status --watch`).

    Raises:
        LaunchError: with SLURM's own words.
    """
    need(command[0])
    done = answered(*command, patient=patient)
    if done.returncode:
        raise refused(done)
    return done.stdout


def answered(
    *command: str, patient: bool = True, shell: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """What a command gave, asked again while the controller is away.

    Args:
        shell: environment of the command; None is this one's.
    """
    for pause in (*RETRY_S, None):
        done = attempt(*command, shell=shell)
        if not done.returncode or pause is None or not patient or not any(words in done.stderr for words in AWAY):
            break
        time.sleep(pause)
    return done


def refused(done: subprocess.CompletedProcess[str]) -> LaunchError:
    """The error for a command that SLURM did not carry out, with its own words."""
    said = done.stderr.strip() or f"exit code {done.returncode}"
    return LaunchError(
        f"{done.args[0]} refused", got=said, do=_OTHERS if any(words in said for words in _DENIED) else None
    )


def need(program: str, do: str = "run this on a login node, or use --dry-run") -> None:
    """Refuse a machine without a SLURM command."""
    if shutil.which(program) is None:
        raise LaunchError(f"{program} is not installed here", do=do)


def attempt(*command: str, shell: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A command that hangs or does not exist raises LaunchError, like one that is refused: callers decide what follows."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=shell)
    except subprocess.TimeoutExpired:
        raise LaunchError(
            f"{command[0]} did not answer",
            got=f"nothing in {TIMEOUT_S:.0f} s",
            do="try again when the scheduler is well",
        ) from None
    except OSError as error:
        raise LaunchError(f"{command[0]} cannot be started", got=error) from error


def shell_for(script: str) -> dict[str, str]:
    """The environment for sbatch: without what would override the script (SBATCH_*) or describes another job (SLURM_*).

    Args:
        script: the text of the batch script.
    """
    # A site's profile may set SBATCH_ACCOUNT for everybody: kept, as long as the script does not say otherwise.
    set_there = re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE)
    kept = {f"SBATCH_{option.upper()}" for option in _FROM_SHELL if option not in set_there}
    foreign = ("SBATCH_", "SLURM_") if "SLURM_JOB_ID" in os.environ else ("SBATCH_",)
    known = {*kept, "SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT", "SLURM_CLUSTERS"}
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign) or name in known}
