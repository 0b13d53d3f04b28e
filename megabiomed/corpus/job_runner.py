"""Jobs of a step on an engine: start what has no result yet, show how far it is, and give up only where nothing moves."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from megabiomed.corpus.job_folder import JobFolder
from megabiomed.corpus.pool import OnProgress
from megabiomed.ground.errors import ConfigError, WorkerError
from megabiomed.ground.files import remove_tree

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Task:
    """What an engine gets: jobs that belong together.

    Attributes:
        function: does one job; a module's function.
        workers: jobs at once; 0 sets no limit.
    """

    function: Callable[[Any], Any]
    jobs: Sequence[Any]
    folder: JobFolder
    workers: int


class Engine(Protocol):
    """Where jobs run. Each method may be called by a process that did not start them: one before it was killed."""

    poll_s: float
    """Seconds between two looks at the folder."""
    settle_s: float
    """How long results are waited for once nothing runs: a file system over a network shows new files late."""

    def start(self, task: Task) -> None:
        """Start the jobs that have no result, unless those of an earlier command still run."""

    def running(self, task: Task) -> bool:
        """Whether any job runs or waits in a queue."""

    def stop(self, task: Task) -> None:
        """End all jobs, and return when they have ended."""

    def interrupted(self, task: Task) -> None:
        """The command is being ended; the jobs may stay where they outlive it."""

    def close(self) -> None:
        """No step follows."""

    def lost(self, task: Task) -> WorkerError:
        """Why jobs ended without a result, as far as is known."""


class EngineRunner:
    """Runs jobs as a `WorkerPool` does, on an engine; each step has a folder of its own below `folder`.

    Args:
        workers: jobs at once; 0 sets no limit.
    """

    def __init__(self, folder: Path, engine: Engine, workers: int) -> None:
        self._root, self._engine = folder, engine
        self._workers = workers

    def __enter__(self) -> EngineRunner:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._engine.close()

    def __call__(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        on_progress: OnProgress | None = None,
        anew: bool = False,
    ) -> list[Result]:
        """The results, in the order of the jobs. Jobs that have one already, from an earlier call, are not repeated.

        Args:
            anew: end what an earlier command has left of these jobs, and do all of them again.

        Raises:
            WorkerError: jobs ended without a result, and no job got one in the last round.
            Exception: that of the first job that failed, as the job raised it.
            LaunchError: the engine cannot start jobs here.
        """
        # The jobs are part of the name: a step may call one function several times.
        digest = hashlib.sha256(repr((function.__qualname__, list(jobs))).encode()).hexdigest()[:8]
        folder = JobFolder((self._root / f"{function.__name__}-{digest}").absolute(), len(jobs))
        task = Task(function, jobs, folder, self._workers)
        if anew and folder.path.is_dir():
            self._engine.stop(task)
            remove_tree(folder.path)
        folder.prepare()
        before = -1
        while (done := len(folder.done())) < len(jobs):
            # A round may end without all results: time limits, dead nodes. Another one helps as long as each brings some.
            if done == before:
                raise self._engine.lost(task)
            before = done
            self._round(task, on_progress or (lambda _done, _amount, _size: None))
        return [folder.result(number) for number in range(len(jobs))]

    def _round(self, task: Task, report: OnProgress) -> None:
        """Start jobs and watch them until all have a result, or none runs any more."""
        try:
            self._engine.start(task)
            idle_since = None
            while len(done := task.folder.done()) < len(task.jobs):
                task.folder.raise_failure()
                report(len(done), *task.folder.counted())
                if self._engine.running(task):
                    idle_since = None
                elif idle_since is None:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > self._engine.settle_s:
                    self._engine.stop(task)
                    break
                time.sleep(self._engine.poll_s)
            report(len(task.folder.done()), *task.folder.counted())
        except Exception:
            self._engine.stop(task)  # what is left would write into a folder that may be removed next
            raise
        except BaseException:
            self._engine.interrupted(task)
            raise


def need_datatrove() -> None:
    """Refuse an installation without datatrove.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import datatrove  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--on needs datatrove, which is not installed here",
            do='pip install "megabiomed[corpus-cluster]", or leave --on out for processes of this machine',
        ) from None
