"""`megabiomed submit --selftest`: the job, what it will check, and waiting for its verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from megabiomed.config.cluster import ClusterConfig, Flags, seconds_of
from megabiomed.ground.errors import FileError, LaunchError
from megabiomed.ground.files import read_json
from megabiomed.launch import records, scheduler
from megabiomed.launch.causes import JOB_LOG
from megabiomed.launch.selftest.plan import PHASES, Shape, plan
from megabiomed.launch.selftest.results import PASSED
from megabiomed.launch.selftest.verdict import JSON, PAGE
from megabiomed.launch.stage import ChainStage
from megabiomed.launch.stage_checks import check_stage
from megabiomed.launch.submit import Job, render

TEMPLATE = "selftest.sh.j2"
_TIME = "01:00:00"
_GRACE_S = 60
_POLL_S = 2.0


def selftest_job(name: str, cluster: ClusterConfig, nodes: int, flags: Flags) -> Job:
    """The one job of a self-test, in a new folder below `runs/`.

    Args:
        name: cluster file, or the name of a shipped one.

    Raises:
        ConfigError: options or folders that cannot be used.
    """
    title = f"{records.SELFTEST}-{Path(name).stem}"[:61]
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    # Nothing is saved at its end, every node is tested, and nobody waits for a part of them.
    limit = min(cluster.time, _TIME, key=seconds_of)  # a partition for tests may allow less than an hour
    own = {"grace_seconds": _GRACE_S, "spare_nodes": 0, "no_kill": None, "shrink_after": None, "time": limit}
    profile = cluster.model_copy(update=own)
    stage = ChainStage(
        chain=title, name=records.SELFTEST, kind=records.SELFTEST, folder=(Path("runs") / f"{title}-{stamp}").absolute(),
        config=None,
        module="megabiomed.launch.selftest.driver", arguments=(),
        typed=("submit", "--selftest", "--cluster", name, "--nodes", str(nodes)), makes=(), cluster=profile, nodes=nodes,
        time=limit, after=(), sbatch=cluster.sbatch | flags,
    )  # fmt: skip
    check_stage(stage, [])
    return render(stage, TEMPLATE)


def lines_of_plan(job: Job) -> Iterator[str]:
    """The plan for the operator who decides whether to submit it."""
    stage = job.stage
    shape = Shape(stage.nodes, stage.ranks_per_node, stage.cluster.gpus_per_node)
    device = f"{shape.gpus_per_node} GPUs a node" if shape.gpus_per_node else "CPUs"
    yield f"selftest: {shape.nodes} nodes x {shape.ranks_per_node} = {shape.ranks} ranks, {device}, {stage.time} at most"
    yield f"  about {sum(PHASES.values()) / 60:.0f} min"
    for check in plan(shape):
        skipped = f"skipped: {check.refusal}" if check.refusal else check.about
        yield f"  {check.phase}: {check.name}: {skipped}"
    yield f"  page: {stage.folder / PAGE}"


def await_verdict(run: Path, number: str, say: Callable[[str], None]) -> bool:
    """Print what the job prints until its verdict is there; returns whether everything passed.

    Raises:
        LaunchError: the job is over and has left no verdict.
    """
    log = run / records.SLURM / JOB_LOG
    shown = 0
    before = None
    while True:
        # Before the files are read: a job that is over has written all of them.
        state = _state(number)
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        for line in lines[shown:]:
            say(line)
        shown = len(lines)
        if not lines and state not in (None, before):
            say(f"job {number}: {state}")
        before = state
        if verdict := _verdict(run):
            return bool(verdict["verdict"] == PASSED)
        if state is not None and state not in scheduler.ACTIVE:
            raise LaunchError(
                f"the self-test's job is over ({state}) and left no verdict", got=f"in its log: {(lines or ['nothing'])[-1]}",
                do=f"read {log}; on a node that cannot run host_python no check can start",
            )  # fmt: skip
        time.sleep(_POLL_S)


def _state(number: str) -> str | None:
    """The state of a job in SLURM's words; None while the controller is away: the verdict is a file."""
    try:
        return scheduler.job(number, patient=False).get("JobState", "not in the queue")
    except LaunchError:
        return None


def _verdict(run: Path) -> dict[str, Any]:
    try:
        return read_json(run / JSON, dict)
    except FileError:
        return {}
