"""Start a run's workers on this machine, watch them, and end them together.

A worker's death ends the others within seconds and its own error is shown first. Stop signals are passed on and waited for,
so that the workers can save.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from megabiomed.ground.errors import MegabiomedError, UserError, WorkerError
from megabiomed.processes.fork import ForkedProcess, can_fork
from megabiomed.processes.hang_page import suspects, write_page
from megabiomed.processes.phases import STARTED, process_started
from megabiomed.processes.rendezvous import MEETING
from megabiomed.processes.terminal import Echo

ERROR_FILE = "MEGABIOMED_ERROR_FILE"
_POLL_S = 0.05
_SETTLE_S = 1.0  # for the worker that failed first to write its error, while the others already lose their connection
_GRACE_S = 5.0
_PR_SET_PDEATHSIG = 1


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen[bytes] | ForkedProcess
    log: Path
    error: Path
    output: IO[bytes] | None
    echo: Echo | None = None


def under_launcher() -> bool:
    """Whether torchrun or srun started this process as one rank of a run."""
    return "MASTER_ADDR" in os.environ and ("RANK" in os.environ or "SLURM_PROCID" in os.environ)


def write_error(path: Path, text: str) -> None:
    """Write a rank's own error, whole at once and with the exact time, by which the launcher finds the first one.

    A file system's own times may be coarser than what passes between a cause and its first consequence.
    """
    written = path.with_suffix(".writing")
    written.write_text(text)
    now = time.time_ns()
    os.utime(written, ns=(now, now))
    written.replace(path)


def run_workers(module: str, arguments: Sequence[str], world: int, log_dir: Path) -> None:
    """Run `python -m module arguments...` as `world` ranks; rank 0 writes to this terminal too.

    Raises:
        UserError: a worker refused its input; the message is the worker's own.
        WorkerError: a worker died otherwise.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    workers: list[_Worker] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}

    asked: list[int] = []

    def remember(number: int, frame: object) -> None:
        # Passed on by the watch, so that a request during the start misses none of the workers.
        asked.append(number)

    try:
        for number in previous:
            signal.signal(number, remember)
        with tempfile.TemporaryDirectory(prefix="megabiomed-") as meeting:
            try:
                _start(workers, module, arguments, world, log_dir, Path(meeting) / "port")
                _watch(workers, asked)
            finally:
                _end(workers)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(
    workers: list[_Worker], module: str, arguments: Sequence[str], world: int, log_dir: Path, meeting: Path
) -> None:
    threads = max(1, (os.cpu_count() or 1) // world)
    shared = {
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        MEETING: str(meeting),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        "PYTHONUNBUFFERED": "1",
        "MEGABIOMED_LOGS": str(log_dir.absolute()),
        STARTED: str(process_started()),
    }
    start = _fork if can_fork() else _spawn
    for rank in range(world):
        log, error = log_dir / f"rank_{rank}.log", log_dir / f"rank_{rank}.error"
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), ERROR_FILE: str(error)}
        # Appending, because the launcher writes rank 0's standard output to the same file.
        with log.open("ab") as stream:
            process, output = start(["-m", module, *arguments], {**os.environ, **shared, **own}, stream, rank == 0)
        worker = _Worker(rank, process, log, error, output)
        workers.append(worker)
    for worker in workers:  # after all forks, because each reader is a thread
        if worker.output is not None:
            worker.echo = Echo(worker.output, worker.log)


def _spawn(
    arguments: list[str], environment: dict[str, str], log: BinaryIO, echoed: bool
) -> tuple[subprocess.Popen[bytes], IO[bytes] | None]:
    """A new Python; its standard output goes to the log, or (echoed) to the stream that is returned."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore::FutureWarning", *arguments],
        env=environment,
        preexec_fn=die_with_parent,
        start_new_session=True,
        stdout=subprocess.PIPE if echoed else log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    return process, process.stdout


def _fork(
    arguments: list[str], environment: dict[str, str], log: BinaryIO, echoed: bool
) -> tuple[ForkedProcess, IO[bytes] | None]:
    """The same as a fork of this process."""
    if not echoed:
        return ForkedProcess(arguments, environment, log.fileno(), log.fileno(), die_with_parent), None
    read, write = os.pipe()
    try:
        return ForkedProcess(arguments, environment, write, log.fileno(), die_with_parent), os.fdopen(read, "rb")
    finally:
        os.close(write)


def die_with_parent() -> None:
    """Linux kills this process when the one that started it dies, however that dies (prctl(2), PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(workers: list[_Worker], asked: list[int]) -> None:
    """Return when all workers left with 0; pass on the signals that arrive in `asked` meanwhile."""
    running = list(workers)
    while running:
        while asked:
            number = asked.pop(0)
            for worker in running:
                worker.process.send_signal(number)  # does nothing to a worker that has left
        failed = [worker for worker in running if worker.process.poll() not in (None, 0)]
        if failed:
            raise _failure(workers, failed)
        running = [worker for worker in running if worker.process.poll() is None]
        time.sleep(_POLL_S)


def _failure(workers: list[_Worker], seen_first: list[_Worker]) -> MegabiomedError:
    """The error of the worker that failed first; the others mostly report the lost connection to it.

    Args:
        seen_first: the workers that were dead when the first death was noticed.
    """
    killed = [worker for worker in seen_first if _ended_with(worker) < 0 and not worker.error.is_file()]
    deadline = time.monotonic() + _SETTLE_S
    while not killed and time.monotonic() < deadline and not any(worker.error.is_file() for worker in workers):
        time.sleep(_POLL_S)
    wrote = sorted((w for w in workers if w.error.is_file()), key=lambda w: w.error.stat().st_mtime_ns)
    # torch's watchdog aborts ranks whose partner is gone: an abort is the cause only where nobody else says why.
    causes = [worker for worker in killed if _ended_with(worker) != -signal.SIGABRT]
    worker = (causes or wrote or killed or seen_first)[0]
    if (page := write_page(worker.log.parent, len(workers))) is not None:
        return WorkerError(suspects(page))
    if worker in killed:
        name = signal.Signals(-_ended_with(worker)).name
        return WorkerError(f"rank {worker.rank} was killed by {name}", do=f"see {worker.log}")
    text = worker.error.read_text() if worker.error.is_file() else worker.log.read_text(errors="replace")[-4000:]
    if _exit_code(worker) == UserError.exit_code:
        return UserError(text.strip())
    return WorkerError(f"rank {worker.rank} failed\n{text.strip()}\n", do=f"its log is {worker.log}")


def _ended_with(worker: _Worker) -> int:
    """Code of a worker, negative for a signal; 0 of one that runs."""
    return worker.process.returncode or 0


def _exit_code(worker: _Worker) -> int | None:
    """Code of a worker that has written its error and is about to leave, if it does within a moment."""
    try:
        return worker.process.wait(_SETTLE_S)
    except subprocess.TimeoutExpired:
        return None


def _end(workers: list[_Worker]) -> None:
    """End what still runs: these processes were started here and nothing can come of them any more."""
    running = [worker.process for worker in workers if worker.process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + _GRACE_S
    while any(process.poll() is None for process in running) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
    for worker in workers:
        if worker.echo is not None:
            worker.echo.join(_GRACE_S)
