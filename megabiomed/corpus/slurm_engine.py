"""Jobs of a build as arrays of a SLURM cluster, submitted by datatrove's SlurmPipelineExecutor.

The arrays outlive the command that submitted them. The same command finds them again by their name, which comes from the
folder of the jobs, and so cannot submit a job twice.
"""

from __future__ import annotations

import hashlib
import math
import os
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor
from loguru import logger

from megabiomed.config import container
from megabiomed.config.cluster import ClusterConfig
from megabiomed.corpus.job_runner import Task
from megabiomed.corpus.job_step import DoneByResult, JobStep
from megabiomed.ground.errors import LaunchError, WorkerError
from megabiomed.ground.node import node_name
from megabiomed.processes import slurm_commands

ARRAY = 1000
"""Elements of an array. SLURM's usual largest index is 1,000; more jobs than that share elements."""
_STOP_S = 120.0
_LEFT_OUT = ("exclusive", "qos")
_TASK = "megabiomed.corpus.slurm_task"


@dataclass(frozen=True)
class Request:
    """What a job asks of the cluster.

    Attributes:
        cluster: the profile of `submit`: partition, account, time limit, python, environment, sbatch and srun options.
        memory: GB of a core; 0 asks for none, for clusters whose nodes declare no memory.
    """

    cluster: ClusterConfig
    memory: int = 4


class SlurmExecutor(DoneByResult, SlurmPipelineExecutor):
    """datatrove's, with what a profile says. It is stored for the nodes, so it holds no environment, which has credentials."""

    def __init__(self, task: Task, request: Request, place: Path, name: str) -> None:
        # A build makes no copy of the package, so PYTHONPATH of an image stays.
        cluster = request.cluster.model_copy(update={"snapshot": False})
        self.folder = task.folder
        # A job takes some cores of a node: `exclusive` in a profile of trainings would give each a whole one.
        flags = {flag: value for flag, value in cluster.sbatch.items() if flag not in _LEFT_OUT and value is not False}
        self.options: dict[str, Any] = {"account": cluster.account, "open-mode": "append"}
        self.options |= {flag: "" if value is True else value for flag, value in flags.items()}
        # The executor starts one process a job and needs no MPI, which a cluster's default may set up.
        self.words = ["srun", "--mpi=none", *container.srun_words(cluster), "--label", "--ntasks=1"]
        self.words += [*container.wrap_words(cluster), str(cluster.python or sys.executable), "-m", _TASK]
        super().__init__(
            [JobStep(task.function, task.jobs, task.folder)],
            tasks=len(task.jobs),
            time=cluster.time,
            partition=cluster.partition,
            cpus_per_task=cluster.cpus_per_task,
            mem_per_cpu_gb=request.memory,
            workers=task.workers or -1,
            job_name=name,
            qos=str(cluster.sbatch.get("qos", "")),  # datatrove's default, "normal", need not exist
            env_command="\n".join(_exports(cluster)),
            logging_dir=str(place),
            tasks_per_job=max(1, math.ceil(len(task.jobs) / ARRAY)),
        )

    def get_sbatch_args(self, max_array: int = 1) -> dict[str, Any]:
        """Lines of the batch script; an empty text stands for an option without a value."""
        given = {**super().get_sbatch_args(max_array), **self.options}
        if not self.mem_per_cpu_gb:
            del given["mem-per-cpu"]
        return {option: value for option, value in given.items() if value is not None}

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The batch script. Its command names the profile's python: datatrove's own relies on PATH."""
        words = shlex.join([*self.words, self.logging_dir.resolve_paths("executor.pik")])
        script: str = super().get_launch_file_contents(sbatch_args, words)
        return script

    def get_distributed_env(self, node_rank: int = -1) -> dict[str, str]:
        """As datatrove, without a call of scontrol, which a container need not have: a job is on one node."""
        names = ("node_ips", "cpus_per_task", "mem_per_cpu", "gpus_on_node", "executor")
        values = (node_name(), self.cpus_per_task, self.mem_per_cpu_gb, 0, "SLURM")
        return {f"datatrove_{name}": str(value) for name, value in zip(names, values)}

    def launch_merge_stats(self) -> None:
        """None: the results are the statistics, and a job that waits for an array that failed would wait for ever."""


class SlurmEngine:
    """Submits arrays and follows them.

    Args:
        say: gets lines for the person at the terminal.
    """

    poll_s = 2.0
    settle_s = 10.0

    def __init__(self, request: Request, say: Callable[[str], None]) -> None:
        self._request, self._say = request, say
        self._known = True
        self._asked = 0.0
        # The line about each array comes from here; on the nodes datatrove logs as it likes.
        logger.disable("datatrove")

    def start(self, task: Task) -> None:
        """Submit the jobs that have no result as one array, unless one of an earlier command is still in the queue."""
        need_slurm()
        name, place = _name(task), task.folder.path / "datatrove"
        self._known, self._asked = True, time.monotonic()
        left = len(task.jobs) - len(task.folder.done())
        if ids := sorted(self._queue(name)):
            self._say(f"{task.function.__name__}: {left} jobs left; array {', '.join(ids)} is in the queue already")
            return
        place.mkdir(exist_ok=True)
        executor = SlurmExecutor(task, self._request, place, name)
        script = self._check(executor, place / "check.sh")
        with _environment(self._request.cluster, script):
            try:
                executor.launch_job()
            except subprocess.CalledProcessError as error:
                raise LaunchError(
                    "sbatch refused", got=error, do="see its words above; the same command finds what was queued"
                ) from None
        self._say(f"{task.function.__name__}: {left} jobs: array {executor.job_id} ({name}), logs in {place}")

    def running(self, task: Task) -> bool:
        """Whether the queue has any; a scheduler that does not answer is asked again later."""
        # The folder is looked at more often than the queue, which others ask too.
        if time.monotonic() - self._asked >= 3 * self.poll_s:
            self._asked = time.monotonic()
            try:
                self._known = bool(self._queue(_name(task), patient=False))
            except LaunchError:
                return True
        return self._known

    def stop(self, task: Task) -> None:
        """Cancel what is left of the array, and wait until it is gone."""
        deadline = time.monotonic() + _STOP_S
        while ids := sorted(self._queue(_name(task))):
            slurm_commands.call("scancel", *ids)
            if time.monotonic() > deadline:
                raise LaunchError("jobs do not end", got=f"arrays {', '.join(ids)}", do="cancel them with scancel")
            time.sleep(1.0)

    def interrupted(self, task: Task) -> None:
        """The jobs go on: they need this command only to start the next step."""
        name = _name(task)
        self._say(f"the jobs go on; the same command follows them again, and scancel --name={name} ends them")

    def close(self) -> None:
        """Nothing is held between steps."""

    def lost(self, task: Task) -> WorkerError:
        """Jobs ended without a word: time limit, memory, or nodes."""
        left = len(task.jobs) - len(task.folder.done())
        return WorkerError(
            f"{left} jobs of {task.function.__name__} ended without a result",
            got="nothing finished since they were submitted",
            do=f"see {task.folder.path / 'datatrove' / 'slurm_logs'}; a longer `time` in the cluster file or a larger "
            "--job-memory may help; run the same command again to resume",
        )

    def _queue(self, name: str, patient: bool = True) -> Counter[str]:
        """Array id -> lines that the queue has of it."""
        words = ("squeue", "--me", f"--name={name}", "--noheader", "--format=%F")
        return Counter(slurm_commands.call(*words, patient=patient).split())

    def _check(self, executor: SlurmExecutor, file: Path) -> str:
        """Have SLURM judge the script first, because datatrove does not keep sbatch's words; returns the script."""
        arguments = executor.get_sbatch_args(1)
        script = executor.get_launch_file_contents(arguments, "")
        refused = _refusal(script, file)
        if not refused:
            return script
        do = "correct the cluster file"
        arguments.pop("mem-per-cpu", None)
        # SLURM's words do not name memory, so it is asked about the same job without.
        if self._request.memory and not _refusal(executor.get_launch_file_contents(arguments, ""), file):
            do = (
                f"no node declares the {self._request.memory} GB a core that a job asks for (RealMemory in slurm.conf): "
                "pass a smaller --job-memory, or --job-memory 0 to ask for none"
            )
        raise LaunchError("the scheduler refuses the jobs of the build", got=refused, do=do)


def _refusal(script: str, file: Path) -> str:
    """Why SLURM would not take a script; empty when it would."""
    file.write_text(script)
    done = slurm_commands.answered("sbatch", "--test-only", str(file), shell=slurm_commands.shell_for(script))
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else ""


def need_slurm() -> None:
    """Refuse a machine without SLURM's commands.

    Raises:
        LaunchError: sbatch is not in PATH.
    """
    slurm_commands.need("sbatch", "run this on a login node of the cluster, or take --on local")


def _name(task: Task) -> str:
    """The same in every command that builds this corpus here, and in no other."""
    return f"{task.function.__name__}-{hashlib.sha256(str(task.folder.path).encode()).hexdigest()[:12]}"


def _exports(cluster: ClusterConfig) -> list[str]:
    """Lines of the batch script; the variables again, which a module may have changed, but no credentials."""
    public = {name: value for name, value in cluster.variables.items() if name not in cluster.secrets}
    return [
        *(f"module load {shlex.quote(module)}" for module in cluster.modules),
        *(f"export {name}={shlex.quote(value)}" for name, value in public.items()),
        *container.exports(cluster, cluster.cpus_per_task),
    ]


@contextmanager
def _environment(cluster: ClusterConfig, script: str) -> Iterator[None]:
    """What sbatch hands to the jobs: this environment and the profile's, credentials included, which no script holds."""
    before = dict(os.environ)
    wanted = slurm_commands.shell_for(script) | cluster.variables
    try:
        os.environ.clear()
        os.environ.update(wanted)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
