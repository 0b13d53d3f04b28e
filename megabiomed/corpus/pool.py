"""Independent jobs in several processes: progress while they run, results in the order of the jobs, no hang if one dies."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from megabiomed.ground.errors import WorkerError

Job = TypeVar("Job")
Result = TypeVar("Result")
POLL = 0.25
"""Seconds between two looks at the shared counter of work done."""

_count: Callable[[int], None] | None = None


class JobRunner(Protocol):
    """What runs the jobs of a step: `run_jobs` in processes of this machine, or one that hands them to other machines."""

    def __call__(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[Job],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        anew: bool = False,
    ) -> list[Result]: ...


def count_work(amount: int) -> None:
    """Called inside a job: `amount` more units of work are done."""
    if _count is not None:
        _count(amount)


@contextmanager
def counting(count: Callable[[int], None]) -> Iterator[None]:
    """Send what `count_work` gets in this process to `count`."""
    global _count
    before, _count = _count, count
    try:
        yield
    finally:
        _count = before


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    on_progress: Callable[[int, int], None] | None = None,
    anew: bool = False,
) -> list[Result]:
    """Call `function` on every job; the results are in the order of the jobs, however many processes there are.

    Args:
        function: a module's function. It, its jobs and its results travel between processes, so they must pickle.
        workers: processes; with 1, or one job, the work is done in this one.
        on_progress: gets (jobs done, sum of `count_work`) now and then.
        anew: for runners that keep results from an earlier command: do all jobs again. Here none are kept.

    Raises:
        WorkerError: a process died, most often because memory ran out. An exception of a job is raised as it is.
    """
    context = multiprocessing.get_context("spawn")  # forking would copy the locks of the progress bar's thread
    # Shared, because results arrive only when a job ends: a progress bar over files of gigabytes would stand still.
    counter = context.Value("q", 0)
    report = on_progress or (lambda _done, _amount: None)
    if min(workers, len(jobs)) <= 1:
        _start(counter)
        results = []
        for number, job in enumerate(jobs, start=1):
            results.append(function(job))
            report(number, counter.value)
        return results
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _start_worker, (counter,)) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            _watch(futures, lambda done: report(done, counter.value))
            return [future.result() for future in futures]
        except BrokenProcessPool:
            # Linux's out-of-memory killer leaves no exception behind, and nothing says which job it was.
            raise WorkerError(
                "a worker process died",
                got=f"{workers} workers",
                do="check the memory, or pass fewer --workers; run the same command again to resume",
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _watch(futures: list[Future[Any]], report: Callable[[int], None]) -> None:
    pending = set(futures)
    while pending:
        done, pending = wait(pending, timeout=POLL, return_when=FIRST_COMPLETED)
        for future in done:
            future.result()  # raises at the first failure: the other jobs may run for hours
        report(len(futures) - len(pending))


def _start(counter: Any) -> None:
    global _count

    def count(amount: int) -> None:
        with counter.get_lock():
            counter.value += amount

    _count = count


def _start_worker(counter: Any) -> None:
    _start(counter)
    # A worker waits for its next job at a queue of which it holds both ends: it would never see that a killed parent is gone.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
