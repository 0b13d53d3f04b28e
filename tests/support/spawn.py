"""Start real gloo processes for a test and show the first failing rank's output."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run_ranks(world: int, command: list[str], log_dir: Path, timeout_s: float = 240.0) -> None:
    """Run `python command...` as `world` ranks; any failure raises with that rank's output."""
    log_dir.mkdir(parents=True, exist_ok=True)
    shared = {
        **os.environ,
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "CUDA_VISIBLE_DEVICES": "",
    }
    logs = [log_dir / f"rank_{rank}.log" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        with log.open("w") as stream:
            process = subprocess.Popen([sys.executable, *command], env=env, stdout=stream, stderr=subprocess.STDOUT)
        processes.append(process)
    try:
        _wait(processes, logs, time.monotonic() + timeout_s)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait(processes: list[subprocess.Popen[bytes]], logs: list[Path], deadline: float) -> None:
    waiting = dict(enumerate(processes))
    while waiting:
        for rank, process in list(waiting.items()):
            code = process.poll()
            if code is None:
                continue
            del waiting[rank]
            if code != 0:
                raise AssertionError(f"rank {rank} exited with {code}\n{logs[rank].read_text()[-6000:]}")
        if time.monotonic() > deadline:
            raise AssertionError(f"ranks {sorted(waiting)} still run\n{logs[min(waiting)].read_text()[-6000:]}")
        time.sleep(0.02)
