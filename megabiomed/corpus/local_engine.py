"""Jobs of a build through datatrove on this machine: one process runs its LocalPipelineExecutor, which starts the workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dill
import psutil
from datatrove.executor import LocalPipelineExecutor

from megabiomed.corpus.job_runner import Task
from megabiomed.corpus.job_step import DoneByResult, JobStep
from megabiomed.ground.errors import WorkerError
from megabiomed.processes.local import die_with_parent

_LAUNCH = "datatrove.tools.launch_pickled_pipeline"


class LocalExecutor(DoneByResult, LocalPipelineExecutor):
    """datatrove's, with the results of the build's jobs as its files of completion."""

    def __init__(self, task: Task, place: Path) -> None:
        self.folder = task.folder
        super().__init__(
            [JobStep(task.function, task.jobs, task.folder, leave_with_parent=True)],
            tasks=len(task.jobs),
            workers=min(task.workers or len(task.jobs), len(task.jobs)),
            logging_dir=str(place),
            start_method="spawn",
        )


class LocalEngine:
    """Starts the executor in a process of its own, because its pool waits for ever for a worker that was killed."""

    poll_s = 0.25
    settle_s = 1.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._workers: set[int] = set()

    def start(self, task: Task) -> None:
        """Start the executor; one of an earlier command died with it."""
        place = task.folder.path / "datatrove"
        place.mkdir(exist_ok=True)
        (place / "executor.pik").write_bytes(dill.dumps(LocalExecutor(task, place)))
        self._workers = set()
        with (place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", _LAUNCH, str(place / "executor.pik")],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def running(self, task: Task) -> bool:
        """False also when a worker is gone: the executor would start another one, but not its job again."""
        if self._process is None or self._process.poll() is not None:
            return False
        workers = self._living()
        gone = self._workers - workers
        self._workers |= workers
        return not gone

    def stop(self, task: Task) -> None:
        """Kill the executor and its workers."""
        if self._process is not None:
            found = _tree(self._process.pid)
            for process in found:
                process.kill()
            self._process.wait()
            psutil.wait_procs(found, timeout=60)
            self._process = None

    interrupted = stop

    def lost(self, task: Task) -> WorkerError:
        """A worker left without a word: most often, memory ran out."""
        return WorkerError(
            "a worker process died",
            got=f"{task.workers} workers",
            do="check the memory, or pass fewer --workers; run the same command again to resume; "
            f"see {task.folder.path / 'datatrove' / 'log'}",
        )

    def _living(self) -> set[int]:
        """Ids of the worker processes; the executor has a manager beside them."""
        found = set()
        for process in _tree(self._process.pid if self._process else 0)[1:]:
            try:
                if process.status() != psutil.STATUS_ZOMBIE and any("spawn_main" in word for word in process.cmdline()):
                    found.add(process.pid)
            except psutil.Error:  # it ended meanwhile
                continue
        return found


def _tree(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _environment() -> dict[str, str]:
    """This process's modules are found in the workers too, as in those of a `WorkerPool`."""
    found: dict[str, Any] = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, sys.path)))}
    return found
