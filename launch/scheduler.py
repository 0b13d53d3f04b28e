"""SLURM's commands, called without a shell; answers parsed tolerantly, because formats differ between versions."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.places import same_place
from megabiomed.launch import records
from megabiomed.processes import slurm_commands
from megabiomed.processes.slurm_commands import call, need

_LOOK_S = (0.5, 1.0, 2.0, 4.0)
"""How long the queue is watched for a job whose request was not answered: the controller may be behind with its work."""
ACTIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "RESIZING")
WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD")
STARTED = ("RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "RESIZING")
"""States of a job whose script may be at work."""


def check_script(script: Path) -> str:
    """What the scheduler would do with a script (`sbatch --test-only`); raises LaunchError where it would refuse."""
    done = slurm_commands.answered("sbatch", "--test-only", str(script), shell=shell_for(script))
    said = (done.stderr or done.stdout).strip()
    if any(words in done.stderr for words in slurm_commands.AWAY):
        raise slurm_commands.refused(done)
    if done.returncode:
        raise LaunchError(f"the scheduler refuses {script}", got=said, do="correct the cluster file or the stage")
    # The number in `Job 12 to start at ...` belongs to no job that will exist.
    return re.sub(r"^(sbatch: )?(Job \d+ )?", "", said)


def refusal(script: Path, exclude: Collection[str]) -> str:
    """Why the scheduler would refuse a script without some nodes; empty when it would not, or does not answer."""
    words = ("sbatch", "--test-only", f"--exclude={','.join(sorted(exclude))}", str(script))
    done = slurm_commands.answered(*words, patient=False, shell=shell_for(script))
    return done.stderr.strip() if done.returncode else ""


def shell_for(script: Path) -> dict[str, str]:
    """The environment for sbatch: without what would override the script (SBATCH_*) or describes another job (SLURM_*)."""
    return slurm_commands.shell_for(script.read_text())


def submit(
    script: Path, after: list[str], secrets: Mapping[str, str] = MappingProxyType({}), turn: Sequence[str] = ()
) -> str:
    """Submit a script that waits for jobs to succeed; returns the job id. A wait that can never end is cancelled.

    A request without an answer may have been received: before it is repeated, the queue is searched for the script.

    Args:
        after: jobs that must succeed first.
        turn: jobs that must be over first, however they end.
        secrets: variables that the job gets from the environment of its submission, because its script must not hold them.

    Raises:
        LaunchError: refused, or not answered; a job that may be queued nevertheless is found by its script (`job_of`).
    """
    need("sbatch")
    # afterok waits through requeues, which do not end a job. Without the second option a stage whose predecessor failed
    # would stay in the queue for ever as DependencyNeverSatisfied.
    kinds = {"afterok": after, "afterany": turn}
    conditions = ",".join(":".join([kind, *jobs]) for kind, jobs in kinds.items() if jobs)
    wait = [f"--dependency={conditions}"] if conditions else []
    wait += ["--kill-on-invalid-dep=yes"] if after else []
    known, lost = set(jobs_of_script(script)), False
    for pause in (*slurm_commands.RETRY_S, None):
        try:
            done = slurm_commands.attempt(
                "sbatch", "--parsable", *wait, str(script), shell={**shell_for(script), **secrets}
            )
        except LaunchError:
            if queued := _only_one(script, known):
                return queued
            raise
        if done.returncode == 0:
            answer = done.stdout.strip().split(";")[0]
            return (_only_one(script, known) if lost else None) or answer
        if any(words in done.stderr for words in slurm_commands.LOST):
            lost = True
            if queued := _only_one(script, known):
                return queued
        if pause is None or not any(words in done.stderr for words in slurm_commands.AWAY):
            break
        time.sleep(pause)
    raise slurm_commands.refused(done)


def _only_one(script: Path, known: set[str]) -> str | None:
    """The one job that requests without an answer left in the queue (others are cancelled); None when there is none."""
    try:
        for pause in _LOOK_S:
            states = jobs_of_script(script)
            if new := sorted(states.keys() - known, key=int):
                first, *more = [number for number in new if states[number] in ACTIVE] or new[:1]
                for number in more:
                    call("scancel", number)
                return first
            time.sleep(pause)
    except LaunchError as error:
        raise LaunchError(
            f"sbatch gave no answer, and the queue cannot be read: {script} may be queued, or not",
            got=error.got,
            do="when the scheduler answers again, `megabiomed status` finds such a job and `megabiomed cancel` ends it",
        ) from None
    return None


def jobs_of_script(script: Path, patient: bool = True) -> dict[str, str]:
    """Job id -> state of the jobs with a script, including those that ended minutes ago; one id for all components.

    Those of this user, and of the one who submitted the run.

    The script may have been submitted under another name of its place: `..`, a link, a bind mount.
    """
    # Text in a format of our own: squeue's JSON has other types in every other version (a state was text, then a list).
    users = records.submitters([script.parent.parent])
    text = call("squeue", *users, "--states=all", "--noheader", "--format=%i|%T|%o", patient=patient)
    rows = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    return {number.split("+")[0]: state for number, state, command in rows if is_script(command, script)}


def is_script(command: str | None, script: Path) -> bool:
    """Whether SLURM's name of a job's script leads to this one. The folder decides: a script may be gone meanwhile."""
    if command is None or Path(command).name != script.name:
        return False
    return command == str(script) or same_place(Path(command).parent, script.parent)


def job(job_id: str, patient: bool = True) -> dict[str, str]:
    """Fields of `scontrol show job`; empty when SLURM no longer remembers it. Of several components the first one's."""
    try:
        text = call("scontrol", "-o", "show", "job", job_id, patient=patient)
    except LaunchError as error:
        if "Invalid job id" in str(error.got):
            return {}
        raise
    lines = [dict(word.split("=", 1) for word in line.split() if "=" in word) for line in text.splitlines() if line]
    if not lines:
        return {}
    first = min(lines, key=lambda fields: int(fields.get("JobId", "0")))
    nodes = [line["NodeList"] for line in lines if line.get("NodeList") not in (None, "(null)")]
    return first | ({"NodeList": ",".join(nodes)} if nodes else {})


def job_of(run: Path, patient: bool = True) -> dict[str, str]:
    """The job of a run, as `job`; empty when there is none, or when its id now belongs to somebody else's job."""
    # The script proves whose job it is, not the id: a controller that is killed forgets its last seconds, and gives the ids
    # of those seconds to other jobs.
    script = run.absolute() / records.SLURM / records.SCRIPT
    record = records.read_job(run)
    job_id = record.get("job_id")
    if record and not job_id:  # the submission was cut off before it learned the id: its job may be in the queue
        active = [number for number, state in jobs_of_script(script, patient).items() if state in ACTIVE]
        job_id = next(iter(active), None)
    fields = job(str(job_id), patient) if job_id else {}
    return fields if is_script(fields.get("Command"), script) else {}


def hostnames(nodes: str) -> list[str]:
    """Names behind a compressed list such as `n[1-3]`."""
    return call("scontrol", "show", "hostnames", nodes).split()
