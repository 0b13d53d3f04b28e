"""Start real gloo processes for a test and show the first failing rank's output."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import megabiomed
from megabiomed.processes.rendezvous import MEETING
from support.zygote import Child, start_python

_IMPORTED = [str(Path(__file__).parents[1]), str(Path(megabiomed.__file__).parents[1])]
"""Where the ranks find `support` and the same package as this process, wherever another one is installed."""


def meeting(folder: Path) -> dict[str, str]:
    """Variables by which the ranks of one start meet, at a port that nobody can take before them."""
    return {"MASTER_ADDR": "127.0.0.1", MEETING: str(Path(tempfile.mkdtemp(prefix="meeting_", dir=folder)) / "port")}


def run_ranks(
    world: int, command: list[str], log_dir: Path, timeout_s: float = 240.0, checkout: Path | None = None
) -> None:  # fmt: skip
    """Run `python command...` as `world` ranks; any failure raises with that rank's output.

    Args:
        checkout: import another checkout of the project than this one.
    """
    imported = _IMPORTED if checkout is None else [str(checkout / "tests"), str(checkout)]
    log_dir.mkdir(parents=True, exist_ok=True)
    shared = {
        **os.environ,
        **meeting(log_dir),
        "WORLD_SIZE": str(world),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTHONPATH": os.pathsep.join([*imported, os.environ.get("PYTHONPATH", "")]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    logs = [log_dir / f"rank_{rank}.log" for rank in range(world)]
    processes: list[Child | subprocess.Popen[bytes]] = []
    for rank, log in enumerate(logs):
        env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        log.write_text("")
        processes.append(start_python(command, env, log, log, fork=checkout is None))
    try:
        _wait(processes, logs, time.monotonic() + timeout_s)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()


def _wait(processes: list[Child | subprocess.Popen[bytes]], logs: list[Path], deadline: float) -> None:
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
