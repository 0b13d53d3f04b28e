"""`megabiomed submit`: render, check, record, submit a chain of stages."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.config import container, to_yaml
from megabiomed.config.cluster import seconds_of
from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import make_writable, write_atomic, write_json
from megabiomed.launch import records, scheduler, sharing, snapshot
from megabiomed.launch.again import unfinished
from megabiomed.launch.directives import component_directives, directives
from megabiomed.launch.prospects import estimates, refuse_hopeless
from megabiomed.launch.sizes import outlives_nodes, spare_nodes
from megabiomed.launch.stage import ChainStage
from megabiomed.launch.stage_in import wanted
from megabiomed.launch.stage_in.report import RECORD
from megabiomed.launch.undo import Before, in_one_line, restore, take_back

_TEMPLATE = "job.sh.j2"


@dataclass(frozen=True)
class Job:
    """A stage with its script."""

    stage: ChainStage
    script: str

    @property
    def path(self) -> Path:
        """Where the script is stored."""
        return self.stage.folder / records.SLURM / records.SCRIPT

    @property
    def umask(self) -> str | None:
        """Mask of permissions of what the job and its submission make; None: that of the shell."""
        return self.stage.cluster.umask


def render(stage: ChainStage, template: str = _TEMPLATE) -> Job:
    """The batch script of a stage; every value that comes from a file is quoted or was checked to need no quotes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    cluster = stage.cluster
    environment = Environment(
        loader=PackageLoader("megabiomed.launch", "templates"),
        undefined=StrictUndefined,  # a misspelt variable must not become an empty word of a command
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    python = cluster.python or sys.executable
    text = environment.get_template(template).render(
        directives=directives(stage),
        version=__version__,
        run=stage.folder,
        python=python,
        host_python=cluster.host_python or python,
        modules=cluster.modules,
        environment={name: value for name, value in cluster.variables.items() if name not in cluster.secrets},
        secrets=list(cluster.secrets),
        cpus_per_task=stage.cpus_per_task,
        ranks_per_node=stage.ranks_per_node,
        nodes_with_ranks=stage.nodes,
        spare=spare_nodes(stage),
        no_kill=outlives_nodes(stage),
        preflight=cluster.preflight,
        preflight_minutes=cluster.preflight_minutes,
        joins=stage.kind != records.COMMAND,
        words=stage.words,
        code=stage.folder / records.SLURM / snapshot.CODE if cluster.snapshot else None,
        components=[component_directives(stage, part) for part in stage.components],
        groups=_groups(stage),
        srun=container.srun_words(cluster),
        exports=container.exports(cluster, stage.cpus_per_task, bool(stage.components)),
        apptainer=container.in_apptainer(cluster),
        wrap=container.wrap_words(cluster),
        seconds=seconds_of(stage.time),
        grace=cluster.grace_seconds,
        exclude=excluded(stage) or "",
        controls=stage.controls,
        least=stage.sizes[-1] if len(stage.sizes) > 1 else None,
        notify=bool(cluster.notify),
        stage_in=cluster.stage_in if wanted.record(stage) else None,
        umask=cluster.umask,
    )
    return Job(stage, text)


def _groups(stage: ChainStage) -> list[dict[str, Any]]:
    """The kinds of nodes of a job, the GPUs that the preflight looks for on them, the cores of a rank, and ranks of a node."""
    cluster, parts = stage.cluster, stage.components
    first = (stage.nodes, cluster.gpus_per_node, cluster.gpu_type, stage.cpus_per_task, stage.ranks_per_node)
    more = ((part.nodes, part.gpus_per_node, None, stage.cpus_of(part), part.ranks_per_node) for part in parts)
    return [dict(zip(("nodes", "gpus", "gpu_type", "cpus", "ranks"), group)) for group in (first, *more)]


def prepare(job: Job, members: list[Path]) -> None:
    """Write script, configuration and record into the run folder; nothing is submitted yet.

    Args:
        members: run folders of all stages of the chain.
    """
    folder = job.stage.folder / records.SLURM
    with sharing.permissions({"umask": job.umask}):
        make_writable(folder / records.VERDICTS)
        sharing.keep_group(job.stage.folder, {"umask": job.umask})
        if job.stage.config is not None:
            write_atomic(folder / "config.yaml", to_yaml(job.stage.config))
        if job.stage.cluster.snapshot:
            snapshot.take(folder)
        write_atomic(job.path, job.script)
        write_json(folder / records.JOB, describe(job, members))


def describe(job: Job, members: list[Path]) -> dict[str, Any]:
    """The record of a submission."""
    stage, cluster = job.stage, job.stage.cluster
    return {
        "format": records.FORMAT,
        "chain": stage.chain,
        "stage": stage.name,
        "kind": stage.kind,
        "words": list(stage.typed),
        "part": stage.part,
        "makes": [str(path) for path in stage.makes],
        "sbatch": stage.sbatch,
        "components": [part.model_dump(mode="json") for part in stage.components],
        "after": list(stage.after),
        "before": [str(folder) for folder in stage.before],
        "members": [str(folder) for folder in members],
        "controls": [str(folder) for folder in stage.controls],
        "nodes": stage.nodes,
        "ranks_per_node": stage.ranks_per_node,
        "ranks": stage.ranks,
        "spare_nodes": spare_nodes(stage),
        "resources": stage.resources,
        "sizes": list(stage.sizes),
        "shrink_after": cluster.shrink_after,
        "time": stage.time,
        "max_failures": cluster.max_failures,
        "slow_factor": cluster.slow_factor,
        "exclude": excluded(stage),
        "job_id": None,
        "prepared": records.now(),
        "code": snapshot.version(),
        "cluster": cluster.model_dump(mode="json"),
        "secrets": list(cluster.secrets),
        RECORD: wanted.record(stage),
    }


def excluded(stage: ChainStage) -> str | None:
    """Nodes that the operator excludes, as sbatch takes them; None for a file of nodes, which only the controller reads."""
    nodes = stage.sbatch.get("exclude")
    return nodes if isinstance(nodes, str) and "/" not in nodes else None


def submit_all(jobs: list[Job], turn: Sequence[str] = ()) -> tuple[dict[str, str], dict[str, str]]:
    """Check every script with the scheduler, then submit them in order; stages that are done are left out.

    If a job of the chain cannot be submitted, those before it are cancelled, and their folders are as they were.

    Args:
        turn: jobs that must be over first, however they end.

    Returns:
        stage -> job id; stage -> what the scheduler said about its start.

    Raises:
        ConfigError: see `unfinished`.
        LaunchError: a run is in the queue already, the scheduler's refusal, or a job that it queued and would never start.
    """
    members = [job.stage.folder for job in jobs]
    todo = unfinished(job.stage for job in jobs)
    jobs = [job for job in jobs if job.stage in todo]
    if jobs:
        scheduler.need("sbatch")
    before = [Before(job.stage.folder) for job in jobs]
    # The folders and their locks; each job's own files follow its own cluster file.
    shared = sharing.permissions({"umask": next((job.umask for job in jobs if job.umask), None)})
    with shared, records.submitting(job.stage.folder for job in jobs), in_one_line():
        ids: dict[str, str] = {}
        try:
            for job in jobs:
                refuse_second(job.stage.folder)
            said = _checked(jobs, members)
        except BaseException:
            restore(before)
            raise
        try:
            for job in jobs:
                ids[job.stage.name] = submit_job(
                    job, members, [ids[name] for name in job.stage.after if name in ids], turn
                )
            refuse_hopeless(ids)
        except BaseException:  # Ctrl-C, too
            # A job that may be in the queue still is found by its folder.
            if take_back([job.path for job in jobs], ids.values()):
                restore(before)
            raise
    return ids, dict(estimates([job.stage for job in jobs], said))


def _checked(jobs: list[Job], members: list[Path]) -> dict[str, str]:
    """Write all scripts and ask the scheduler about each; stage -> its answer."""
    for job in jobs:
        prepare(job, members)
    # All of them before the first is submitted: a wrong last stage must not be found when the first one runs.
    return {job.stage.name: scheduler.check_script(job.path) for job in jobs}


def submit_job(job: Job, members: list[Path], after: list[str], turn: Sequence[str] = ()) -> str:
    """Submit a prepared job, after those of `scheduler.submit`, and note it; returns its id. Its budgets start from zero."""
    # A switch that an earlier submission left would end this one at once.
    for folder in job.stage.controls:
        for switch in (records.KILL_SWITCH, records.PAUSE):
            (folder / switch).unlink(missing_ok=True)
    with sharing.permissions({"umask": job.umask}):
        records.renew(job.stage.folder)
        number = scheduler.submit(job.path, after, job.stage.secrets, turn)
        record = describe(job, members) | {"job_id": number, "submitted": records.now()}
        write_json(job.stage.folder / records.SLURM / records.JOB, record)
    return number


def refuse_second(run: Path) -> None:
    """Refuse a run that is in the queue already, under the recorded id or, if a submission was cut off, under another."""
    recorded = scheduler.job_of(run)
    states = {recorded.get("JobId", ""): recorded.get("JobState", "")}
    states |= scheduler.jobs_of_script(run.absolute() / records.SLURM / records.SCRIPT)
    for number, state in states.items():
        if state in scheduler.ACTIVE:
            raise LaunchError(
                f"{run} is in the queue already",
                got=f"job {number}, {state}",
                do=f"megabiomed cancel {run}, or wait for it",
            )
