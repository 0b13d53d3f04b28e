"""Independent jobs in several processes: progress while they run, results in the order of the jobs, no hang if one dies."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any, Protocol, TypeVar

from megabiomed.ground.errors import WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")
OnProgress = Callable[[int, int, int], None]
"""Gets (jobs done, and what `count_work` got in all: amount, size) of a step now and then."""
Count = Callable[[int, int], None]
POLL = 0.25
"""Seconds between two looks at the shared counter of work done, and between two additions of a worker to it."""

_count: Count | None = None


class JobRunner(Protocol):
    """What runs the jobs of a step: processes of this machine (`WorkerPool`), or one that hands them to other machines."""

    def __call__(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        on_progress: OnProgress | None = None,
        anew: bool = False,
    ) -> list[Result]: ...


def count_work(amount: int, size: int = 0) -> None:
    """Called inside a job: `amount` more units of work are done, which are `size` of what the job is measured by (bytes)."""
    if _count is not None:
        _count(amount, size)


@contextmanager
def counting(count: Count) -> Iterator[None]:
    """Send what `count_work` gets in this process to `count`."""
    global _count
    before, _count = _count, count
    try:
        yield
    finally:
        _count = before


class WorkerPool:
    """Runs the jobs of all steps of a build in the same processes, which start with the first step that has several jobs.

    Args:
        workers: processes; with 1, or for a step of one job, the work is done in this one.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._executor: ProcessPoolExecutor | None = None
        self._counter: Any = None
        if workers > 1:
            # It imports what the workers need once for all of them, while this process goes on. Workers are not forked
            # from here: that would copy the locks of the progress bar's thread.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(sorted(name for name in sys.modules if name.startswith("megabiomed.")))
            forkserver.ensure_running()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_failure: object) -> None:
        """End the workers, after the jobs that they are at."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def __call__(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        on_progress: OnProgress | None = None,
        anew: bool = False,
    ) -> list[Result]:
        """Call `function` on every job; the results are in the order of the jobs, however many processes there are.

        Args:
            function: a module's function. It, its jobs and its results travel between processes, so they must pickle.
            anew: for runners that keep results from an earlier command: do all jobs again. Here none are kept.

        Raises:
            WorkerError: a process died, most often because memory ran out. An exception of a job is raised as it is; other
                jobs of the step may then still run, until the pool is left.
        """
        report = on_progress or (lambda _done, _amount, _size: None)
        if min(self._workers, len(jobs)) <= 1:
            return list(_done_here(function, jobs, report))
        executor = self._started()
        self._counter[:] = [0, 0]  # the jobs of the step before have all ended
        futures = [executor.submit(_counted, function, job) for job in jobs]
        try:
            _watch(futures, lambda done: report(done, *self._counter[:]))
            return [future.result() for future in futures]
        except BrokenProcessPool:
            # Linux's out-of-memory killer leaves no exception behind, and nothing says which job it was.
            raise WorkerError(
                "a worker process died",
                got=f"{self._workers} workers",
                do="check the memory, or pass fewer --workers; run the same command again to resume",
            ) from None

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            # Shared, because results arrive only when a job ends: a bar over files of gigabytes would stand still.
            self._counter = context.Array("q", 2)
            self._executor = ProcessPoolExecutor(self._workers, context, _start_worker, (self._counter,))
        return self._executor


class _Tally:
    """Adds up what `count_work` gets and hands it on now and then: documents are many, and handing on takes a lock."""

    def __init__(self, hand_on: Count) -> None:
        self._hand_on = hand_on
        self._amount = self._size = 0
        self._last = time.monotonic()

    def add(self, amount: int, size: int) -> None:
        self._amount += amount
        self._size += size
        if time.monotonic() - self._last >= POLL:
            self.flush()

    def flush(self) -> None:
        self._hand_on(self._amount, self._size)
        self._amount = self._size = 0
        self._last = time.monotonic()


_tally = _Tally(lambda _amount, _size: None)


def _done_here(function: Callable[[Job], Result], jobs: Sequence[Job], report: OnProgress) -> Iterator[Result]:
    number = total = total_size = 0

    def hand_on(amount: int, size: int) -> None:
        nonlocal total, total_size
        total += amount
        total_size += size
        report(number, total, total_size)

    tally = _Tally(hand_on)
    for job in jobs:
        with counting(tally.add):
            result = function(job)
        number += 1
        tally.flush()
        yield result


def _watch(futures: list[Future[Any]], report: Callable[[int], None]) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()  # raises at the first failure: the other jobs may run for hours
        report(len(futures) - len(pending))


def _counted(function: Callable[[Job], Result], job: Job) -> Result:
    """Do a job in a worker."""
    try:
        return function(job)
    finally:
        _tally.flush()  # before the result is known


def _start_worker(counter: Any) -> None:
    global _count, _tally

    def hand_on(amount: int, size: int) -> None:
        with counter.get_lock():
            counter[0] += amount
            counter[1] += size

    _tally = _Tally(hand_on)
    _count = _tally.add
    # A worker waits for its next job at a queue of which it holds both ends: it would never see that a killed parent is gone.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
