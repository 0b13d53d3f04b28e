"""Jobs in several processes: results in order, errors as they are, and no hang when a process dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from megabiomed.corpus.pool import WorkerPool, count_work
from megabiomed.ground.errors import DataError, WorkerError


def square(number: int) -> int:
    count_work(number, 10 * number)
    return number * number


def fail(number: int) -> int:
    if number == 1:
        raise DataError("job one is wrong", got=number)
    return number


def die(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_results_are_in_order_and_all_work_is_counted(workers: int) -> None:
    seen: list[tuple[int, ...]] = []
    with WorkerPool(workers) as pool:
        for _step in range(2):
            results = pool(square, range(6), on_progress=lambda *counted: seen.append(counted))
            assert results == [0, 1, 4, 9, 16, 25]
            assert seen[-1] == (6, 15, 150)


def process_of(_job: int) -> int:
    return os.getpid()


@pytest.mark.timeout(120)
def test_all_steps_share_the_same_processes() -> None:
    with WorkerPool(2) as pool:
        found = {process for _step in range(3) for process in pool(process_of, range(4))}
        alone = pool(process_of, [0])
    assert len(found) <= 2
    assert os.getpid() not in found
    assert alone == [os.getpid()]
    assert not any(map(runs, found))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_job_is_raised_as_it_is(workers: int) -> None:
    with pytest.raises(DataError, match="job one is wrong"), WorkerPool(workers) as pool:
        pool(fail, range(3))


@pytest.mark.timeout(120)
def test_a_killed_process_is_an_error_and_no_hang() -> None:
    with pytest.raises(WorkerError, match="a worker process died"), WorkerPool(2) as pool:
        pool(die, range(4))


def name_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


def run_two(folder: Path) -> None:
    WorkerPool(2)(name_and_wait, [folder, folder])


def runs(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.timeout(120)
def test_the_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    parent = multiprocessing.get_context("spawn").Process(target=run_two, args=(tmp_path,))
    parent.start()
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.05)
    parent.kill()
    parent.join()
    workers = [int(file.name) for file in tmp_path.iterdir()]
    while any(map(runs, workers)):
        time.sleep(0.05)
