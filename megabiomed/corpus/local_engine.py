"""Jobs of a build through datatrove on this machine: one process runs the LocalPipelineExecutor of each step.

The executor starts workers for each step. They are forked from that process, which has imported what they need and has no
other thread, so that takes hundredths of a second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dill
import psutil
from datatrove.executor import LocalPipelineExecutor

from megabiomed.corpus.job_runner import Task
from megabiomed.corpus.job_step import DoneByResult, JobStep
from megabiomed.corpus.local_host import ENDED, PICKLED
from megabiomed.ground.errors import WorkerError
from megabiomed.processes.local import die_with_parent

_HOST = "megabiomed.corpus.local_host"
_LOG = "local.log"
_LOOK_S = 0.01


class LocalExecutor(DoneByResult, LocalPipelineExecutor):
    """datatrove's, with the results of the build's jobs as its files of completion."""

    def __init__(self, task: Task, place: Path) -> None:
        self.folder = task.folder
        super().__init__(
            [JobStep(task.function, task.jobs, task.folder, leave_with_parent=True)],
            tasks=len(task.jobs),
            workers=min(task.workers or len(task.jobs), len(task.jobs)),
            logging_dir=str(place),
            start_method="fork",
        )


class LocalEngine:
    """Runs executors in a process of their own, because their pools wait for ever for a worker that was killed."""

    poll_s = 0.25
    settle_s = 1.0

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ended: Path | None = None
        self._workers: set[int] = set()

    def start(self, task: Task) -> None:
        """Start the executor; one of an earlier command died with it."""
        self._wait_for_end()
        place = (task.folder.path / "datatrove").absolute()
        place.mkdir(exist_ok=True)
        (place / PICKLED).write_bytes(dill.dumps(LocalExecutor(task, place)))
        self._ended = place / ENDED
        self._ended.unlink(missing_ok=True)
        self._workers = set()
        task.folder.forget_claims()
        if self._process is None or self._process.poll() is not None:
            self._process = _host(task.folder.path.parent / _LOG)
        assert self._process.stdin is not None, "it is a pipe"
        with suppress(BrokenPipeError):  # `running` sees that it has ended
            self._process.stdin.write(json.dumps(str(place)).encode() + b"\n")
            self._process.stdin.flush()

    def _wait_for_end(self) -> None:
        """The executor of the step before still cleans up when all its jobs have results."""
        while self._process is not None and self._process.poll() is None and self._ended and not self._ended.exists():
            time.sleep(_LOOK_S)

    def running(self, task: Task) -> bool:
        """False also when a worker is gone: the executor would start another one, but not its job again."""
        if self._process is None or self._process.poll() is not None or (self._ended and self._ended.exists()):
            return False
        # A worker may be gone before it was seen here, but not before it has claimed its job.
        self._workers |= task.folder.claims()
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
            self._process.communicate()
            psutil.wait_procs(found, timeout=60)
            self._process = None

    interrupted = stop

    def close(self) -> None:
        """End the process, once its last executor has cleaned up."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def lost(self, task: Task) -> WorkerError:
        """A worker left without a word: most often, memory ran out."""
        return WorkerError(
            "a worker process died",
            got=f"{task.workers} workers",
            do="check the memory, or pass fewer --workers; run the same command again to resume; "
            f"see {task.folder.path.parent / _LOG}",
        )

    def _living(self) -> set[int]:
        """Ids of the process that runs the executor, which does the job of a step of one, and of those forked from it.

        These are workers, and a manager that lives as long as they do.
        """
        found = set()
        for process in _tree(self._process.pid if self._process else 0):
            try:
                # A job may start programs, which come and go.
                if process.status() != psutil.STATUS_ZOMBIE and _HOST in process.cmdline():
                    found.add(process.pid)
            except psutil.Error:  # it ended meanwhile
                continue
        return found


def _host(log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", _HOST],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            preexec_fn=die_with_parent,
        )


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
