"""`megabiomed submit`: render, check, record, submit a chain of stages."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.checkpoint.files import make_writable, write_atomic, write_json
from megabiomed.config import to_yaml
from megabiomed.errors import ConfigError, LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.chain import ComponentConfig, Stage
from megabiomed.launch.cluster import ClusterConfig, seconds_of

_TEMPLATE = "job.sh.j2"
_SCRIPT_PATH = r"""[^\s"'\\%]+"""


@dataclass(frozen=True)
class Job:
    """A stage with its script."""

    stage: Stage
    script: str

    @property
    def path(self) -> Path:
        """Where the script is stored."""
        return self.stage.folder / records.SLURM / "job.sh"


def render(stage: Stage, cluster: ClusterConfig) -> Job:
    """The batch script of a stage; every value that comes from a file is quoted or was checked to need no quotes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("megabiomed.launch", "templates"),
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    environment.filters["sh"] = lambda value: shlex.quote(str(value))
    variables = {"TMPDIR": str(cluster.scratch)} if cluster.scratch else {}
    text = environment.get_template(_TEMPLATE).render(
        directives=directives(stage, cluster),
        version=__version__,
        run=stage.folder,
        python=cluster.python or sys.executable,
        modules=cluster.modules,
        environment=variables | cluster.environment,
        cpus_per_task=cluster.cpus_per_task,
        ranks_per_node=cluster.ranks_per_node,
        gpus=cluster.gpus_per_node,
        gpu_type=cluster.gpu_type,
        preflight=cluster.preflight,
        worker=stage.worker,
        components=[component_directives(part) for part in stage.components],
        groups=",".join(str(index) for index in range(len(stage.components) + 1)),
        srun=cluster.srun,
        wrap=cluster.wrap,
        seconds=seconds_of(stage.time),
        grace=cluster.grace_seconds,
    )
    return Job(stage, text)


def directives(stage: Stage, cluster: ClusterConfig) -> list[str]:
    """The options of the #SBATCH lines."""
    for path in (stage.folder, Path.cwd()):
        if not re.fullmatch(_SCRIPT_PATH, str(path)):
            raise ConfigError(
                "a path cannot stand in an #SBATCH line", got=repr(str(path)), do="use one without spaces, quotes and %"
            )
    gres = ["gpu", cluster.gpu_type, str(cluster.gpus_per_node)]
    values: dict[str, str | int | bool | None] = {
        **stage.sbatch,
        "job-name": f"{stage.chain}-{stage.name}",
        "partition": cluster.partition,
        "account": cluster.account,
        "nodes": stage.nodes,
        "ntasks-per-node": cluster.ranks_per_node,
        "cpus-per-task": cluster.cpus_per_task,
        "gres": ":".join(part for part in gres if part) if cluster.gpus_per_node else None,
        "mem": cluster.memory,
        "time": stage.time,
        "signal": f"B:USR1@{cluster.grace_seconds}",
        "requeue": True,
        "open-mode": "append",
        "chdir": str(Path.cwd()),
        "output": f"{stage.folder}/slurm/job.log",
        "comment": f"megabiomed:chain={stage.chain},stage={stage.name}",
    }
    kept = ((key, value) for key, value in values.items() if value is not None and value is not False)
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in kept]


def component_directives(part: ComponentConfig) -> list[str]:
    """The options of the #SBATCH lines of one more kind of nodes."""
    values: dict[str, str | int | bool] = {
        **part.sbatch,
        "nodes": part.nodes,
        "ntasks-per-node": part.ranks_per_node,
        **({"gres": f"gpu:{part.gpus_per_node}"} if part.gpus_per_node else {}),
    }
    return [f"--{key}" if value is True else f"--{key}={value}" for key, value in values.items() if value is not False]


def prepare(job: Job, cluster: ClusterConfig) -> None:
    """Write script, configuration and record into the run folder; nothing is submitted yet."""
    folder = job.stage.folder / records.SLURM
    make_writable(folder / records.VERDICTS)
    write_atomic(folder / "config.yaml", to_yaml(job.stage.config))
    write_atomic(job.path, job.script)
    write_json(folder / records.JOB, describe(job, cluster))


def describe(job: Job, cluster: ClusterConfig) -> dict[str, Any]:
    """What is kept about a submission."""
    stage = job.stage
    return {
        "chain": stage.chain,
        "stage": stage.name,
        "after": list(stage.after),
        "nodes": stage.nodes,
        "ranks_per_node": cluster.ranks_per_node,
        "ranks": stage.ranks(cluster),
        "time": stage.time,
        "max_failures": cluster.max_failures,
        "slow_factor": cluster.slow_factor,
        "job_id": None,
        "prepared": records.now(),
        "code": code_version(),
        "cluster": cluster.model_dump(mode="json"),
    }


def code_version() -> dict[str, Any]:
    """Version of this package; of a checkout also its commit and whether it was changed."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    changed = bool(_git(here, "status", "--porcelain")) if commit else None
    return {"megabiomed": __version__, "commit": commit, "changed": changed, "python": sys.executable}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def submit_all(jobs: list[Job], cluster: ClusterConfig) -> dict[str, str]:
    """Check every script with the scheduler, then submit them in order; returns stage -> job id.

    A chain that cannot be submitted whole is taken back.

    Raises:
        LaunchError: a run is in the queue already, or the scheduler's refusal.
    """
    for job in jobs:
        refuse_second(job.stage.folder)
    for job in jobs:
        prepare(job, cluster)
    for job in jobs:
        scheduler.check_script(job.path)
    ids: dict[str, str] = {}
    try:
        for job in jobs:
            (job.stage.folder / "control" / "end").unlink(missing_ok=True)
            ids[job.stage.name] = scheduler.submit(job.path, [ids[name] for name in job.stage.after if name in ids])
            record = describe(job, cluster) | {"job_id": ids[job.stage.name], "submitted": records.now()}
            write_json(job.stage.folder / records.SLURM / records.JOB, record)
    except LaunchError:
        for job_id in ids.values():
            scheduler.call("scancel", job_id)
        raise
    return ids


def refuse_second(run: Path) -> None:
    """A run is in the queue once."""
    job_id = records.read_job(run).get("job_id")
    state = scheduler.job(job_id).get("JobState") if job_id else None
    if state in scheduler.ACTIVE:
        raise LaunchError(
            f"{run} is in the queue already",
            got=f"job {job_id}, {state}",
            do=f"megabiomed cancel {run}, or wait for it",
        )


def torchrun_command(stage: Stage, cluster: ClusterConfig) -> str:
    """The same stage without SLURM, to be typed on each host."""
    words = ["torchrun", f"--nnodes={stage.nodes}", f"--nproc_per_node={cluster.ranks_per_node}", "--node_rank=RANK"]
    words += ["--master_addr=FIRST_HOST", "--master_port=29500", "-m", stage.worker]
    return shlex.join([*words, str(stage.folder / records.SLURM / "config.yaml")])
