"""`megabiomed resubmit --nodes --time --partition --exclude`: a submitted run with another size, limit or place."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megabiomed.config.base import parse
from megabiomed.config.cluster import ClusterConfig, Flags, parse_flags
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.chain import ChainStageConfig, ComponentConfig
from megabiomed.launch.sizes import with_sizes
from megabiomed.launch.stage import ChainStage
from megabiomed.launch.stage_checks import check_stage
from megabiomed.launch.submit import Job, prepare, render, submit_job
from megabiomed.launch.successor import hand_over
from megabiomed.launch.undo import Before
from megabiomed.runs.kinds import WORKER, read_run


@dataclass(frozen=True)
class Change:
    """What an operator wants otherwise; None leaves it as it is.

    Attributes:
        exclude: nodes to avoid, as sbatch takes them; empty takes the earlier ones back.
    """

    nodes: int | None = None
    time: str | None = None
    partition: str | None = None
    exclude: str | None = None

    def __bool__(self) -> bool:
        return self != Change()

    def __str__(self) -> str:
        return ", ".join(f"{name} {value or 'none'}" for name, value in vars(self).items() if value is not None)

    def applied(self, stage: ChainStage) -> ChainStage:
        """A stage as it would be with the change.

        Raises:
            ConfigError: a value that no batch script can carry, or a command on several nodes.
        """
        if stage.kind == records.COMMAND and self.nodes not in (None, 1):
            raise LaunchError(f"{stage.name} is a command, one process on one node", got=f"--nodes {self.nodes}")
        words = {"partition": self.partition, "exclude": self.exclude}
        flags: Flags = stage.sbatch | parse_flags([f"{key}={value}" for key, value in words.items() if value])
        if self.exclude == "":
            flags.pop("exclude", None)
        time = stage.time
        if self.time is not None:  # checked as in a chain file
            time = parse(ChainStageConfig, {"name": "stage", "run": "run", "time": self.time}, "--time").time or time
        return replace(stage, nodes=self.nodes or stage.nodes, time=time, sbatch=flags)


UNCHANGED = Change()


def stored_stage(run: Path) -> ChainStage:
    """A stage as it was submitted, from its record and its stored configuration.

    Raises:
        LaunchError: an earlier release submitted it, and noted too little.
    """
    record = records.read_job(run)
    if "sbatch" not in record:
        raise LaunchError(
            f"{run} was submitted by an earlier release, which did not note its options",
            do="submit its run file again, with run_dir of this folder",
        )
    if record["kind"] == records.SELFTEST:
        raise LaunchError(
            f"{run} is a self-test, whose job is not changed", do="megabiomed submit --selftest with other options"
        )
    folder = Path(record["controls"][0])
    command, part = record["kind"] == records.COMMAND, record.get("part")
    config = None if command else read_run(str(run / records.SLURM / "config.yaml"), [])
    values = _known(record["cluster"]) | {"environment": _with_secrets(record)}
    return ChainStage(
        chain=record["chain"], name=record["stage"], kind=record["kind"], folder=folder, config=config,
        module="megabiomed.cli" if command else WORKER,
        arguments=tuple(record["words"]) if command else (part,) if part else (), typed=tuple(record["words"]),
        makes=tuple(map(Path, record["makes"])), cluster=parse(ClusterConfig, values, str(run / records.SLURM / records.JOB)),
        nodes=record["nodes"], time=record["time"], after=tuple(record["after"]), sbatch=record["sbatch"],
        components=tuple(parse(ComponentConfig, part, "components") for part in record["components"]),
        before=tuple(map(Path, record["before"])),
    )  # fmt: skip


def _known(cluster: dict[str, Any]) -> dict[str, Any]:
    """The keys of a stored cluster file that this release knows; says which a newer one has stored beside them."""
    if others := sorted(cluster.keys() - ClusterConfig.model_fields.keys()):
        print(f"left out, because this release does not know them: {', '.join(others)}", file=sys.stderr)
    return {key: value for key, value in cluster.items() if key not in others}


def _with_secrets(record: dict[str, Any]) -> dict[str, str]:
    """The variables of a job; credentials among them, which no record holds, come from this environment."""
    given = record["cluster"].get("environment", {})
    return given | {
        name: os.environ[name] for name in record.get("secrets", []) if name in given and name in os.environ
    }


def changed(run: Path, change: Change) -> Job:
    """The script of a submitted run with a change, checked as at a submission: topology, times, files, options.

    Raises:
        ConfigError: what `check_stage` refuses; TopologyError: nodes that do not fit the topology.
    """
    stage = change.applied(stored_stage(run))
    members = [Path(folder) for folder in records.read_job(run)["members"]]
    earlier = members[: members.index(stage.folder)] if stage.folder in members else []
    check_stage(stage, [stored_stage(folder) for folder in earlier if records.read_job(folder)])
    try:
        return render(with_sizes(stage))
    except ConfigError:
        # Who asks for the smallest size that the run fits has shrunk it by hand; `shrink_after` holds again at a larger one.
        if change.nodes is None:
            raise
        return render(stage)


def replace_job(run: Path, job: Job, after: list[str]) -> str:
    """Submit a changed script in place of the job that a run has; returns the new id.

    A job that waits is held, then its dependents wait for the new one, then it is cancelled: at no time can both start.

    Args:
        after: jobs that must succeed first.

    Raises:
        LaunchError: the scheduler refuses the script; then the run's own script and job are as they were.
    """
    old = scheduler.job_of(run)
    waits, was_held = old.get("JobState") in scheduler.WAITING, old.get("Priority") == "0"
    if waits:
        scheduler.call("scontrol", "hold", old["JobId"])
    before = Before(job.stage.folder)
    members = [Path(folder) for folder in records.read_job(run)["members"]]
    try:
        prepare(job, members)
        scheduler.check_script(job.path)
        number = submit_job(job, members, after)
    except BaseException:
        before.restore()
        if waits and not was_held:
            scheduler.call("scontrol", "release", old["JobId"])
        raise
    if waits:
        hand_over(old["JobId"], number)
        scheduler.call("scancel", old["JobId"])
    return number


def refuse_running(run: Path) -> None:
    """Refuse to change a job that has nodes.

    Raises:
        LaunchError: names the job, and how to make it wait.
    """
    job = scheduler.job_of(run)
    if job.get("JobState") in scheduler.STARTED:
        raise LaunchError(
            f"{run} runs, so its job cannot be changed", got=f"job {job['JobId']}, {job['JobState']}",
            do=f"megabiomed pause {run}, then this again when it waits",
        )  # fmt: skip
