"""Steps of srun within the job: each has its own log folder and time limit, and its failure is words, not an exception."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megabiomed.config import container
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.files import make_writable
from megabiomed.launch.causes import failure_in
from megabiomed.launch.selftest.plan import Shape

FOLDER = "checks"
_POLL_S = 0.2
_END_S = 5.0


@dataclass(frozen=True)
class Site:
    """Where and how steps are started.

    Attributes:
        nodes: those that the steps use, in the scheduler's order.
        python: interpreter of the ranks.
    """

    run: Path
    nodes: tuple[str, ...]
    cluster: ClusterConfig
    python: str
    incarnation: str

    @property
    def shape(self) -> Shape:
        """Nodes and ranks of the steps."""
        return Shape(len(self.nodes), self.cluster.ranks_per_node, self.cluster.gpus_per_node)

    @property
    def one(self) -> Site:
        """The first node alone, with one rank."""
        cluster = self.cluster.model_copy(update={"tasks_per_node": 1})
        return replace(self, nodes=self.nodes[:1], cluster=cluster)

    @property
    def hosts(self) -> Site:
        """One task on each node, with the cores of all of its ranks."""
        cores = self.cluster.cpus_per_task * self.cluster.ranks_per_node
        return replace(
            self, cluster=self.cluster.model_copy(update={"tasks_per_node": 1, "cpus_per_task": cores})
        )  # fmt: skip

    def folder(self, name: str) -> Path:
        """Where a check writes."""
        return self.run / FOLDER / name


def run_step(
    site: Site,
    name: str,
    words: Sequence[object],
    limit_s: float,
    environment: Mapping[str, str] | None = None,
    each_poll: Callable[[subprocess.Popen[Any]], None] = lambda process: None,
    together: bool = True,
) -> str | None:
    """Run `python -m WORDS` on every rank of a site; why it failed, None when it did not.

    Args:
        limit_s: seconds after which the step is ended.
        each_poll: called again and again while it runs, with the process of srun.
        together: the first task that fails ends the others; else they have two minutes after the first one's end.
    """
    every = site.folder(name) / "logs"
    make_writable(every)
    logs = every / f"start_{len(os.listdir(every)) + 1}"
    logs.mkdir()
    meeting = site.folder(name) / "meeting"
    meeting.mkdir(mode=0o700, exist_ok=True)  # nobody else may write there
    told = {
        "MASTER_ADDR": site.nodes[0], "MEGABIOMED_MEETING": str(meeting / f"{time.time_ns()}"),
        "MEGABIOMED_LOGS": str(logs), **(environment or {}),
    }  # fmt: skip
    command = [
        *_srun(site, logs, limit_s, together),
        *container.wrap_words(site.cluster),
        site.python,
        "-m",
        *map(str, words),
    ]
    errors = logs / "srun.log"
    with errors.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **told}, stdout=output, stderr=output)
        in_time = _ended(process, limit_s, each_poll)
    if in_time and process.returncode == 0:
        return None
    failure = failure_in(errors.read_text(errors="replace").splitlines(), logs)
    why = str(failure) if failure is not None else f"srun's exit code is {process.returncode}"
    late = "" if in_time else f"no end within {limit_s:.0f} s, the step was ended: "
    return f"{late}{why}; logs: {logs}"


def _srun(site: Site, logs: Path, limit_s: float, together: bool) -> list[str]:
    count, cluster = len(site.nodes), site.cluster
    each = cluster.ranks_per_node
    return [
        "srun", f"--nodes={count}", f"--ntasks={count * each}", f"--ntasks-per-node={each}",
        f"--nodelist={','.join(site.nodes)}", f"--cpus-per-task={cluster.cpus_per_task}", "--export=ALL",
        *(["--kill-on-bad-exit=1", "--wait=30"] if together else ["--wait=120"]),
        f"--time={int(limit_s / 60) + 2}", f"--output={logs}/rank_%t.log", *container.srun_words(cluster),
    ]  # fmt: skip


def _ended(process: subprocess.Popen[Any], limit_s: float, each_poll: Callable[[subprocess.Popen[Any]], None]) -> bool:
    """Wait for a step; False when it had to be ended. An exception in the meantime ends it as well."""
    began = time.monotonic()
    try:
        while process.poll() is None:
            if time.monotonic() - began > limit_s:
                return False
            each_poll(process)
            time.sleep(_POLL_S)
        return True
    finally:
        for end in (process.terminate, _end_steps, process.kill):
            if process.poll() is None:
                end()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_S)


def _end_steps() -> None:
    """Kill the ranks of this job: those that hang obey no SIGTERM, and would outlive their srun."""
    job = os.environ.get("SLURM_JOB_ID", "")
    with suppress(OSError, subprocess.TimeoutExpired):
        listed = ["squeue", "--noheader", "--steps", f"--jobs={job}", "--format=%i"]
        steps = subprocess.run(listed, capture_output=True, text=True, timeout=30).stdout.split()
        for step in (step for step in steps if step.rpartition(".")[2].isdigit()):
            subprocess.run(["scancel", "--signal=KILL", step], timeout=30, check=False)
