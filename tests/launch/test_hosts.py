"""Without SLURM: the command that `submit --dry-run` prints, typed on two hosts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.runs import events, losses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_printed_command_trains_on_two_hosts_as_one_launcher_does(
    command: Any, run_file: Path, tmp_path: Path
) -> None:
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = [run_file, "parallel.data_parallel_size=2", "train.steps=4"]
    (tmp_path / "cluster.yaml").write_text(
        yaml.safe_dump({"tasks_per_node": 2, "environment": {"OMP_NUM_THREADS": "1"}})
    )
    said = command(
        "submit", *words, f"run_dir={run}", "--cluster", tmp_path / "cluster.yaml", "--nodes", 2, "--dry-run"
    )
    (line,) = [line for line in said.stdout.splitlines() if "without SLURM" in line]
    assert "(on each of 2 hosts)" in line
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shared = {**os.environ, "PATH": path, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    hosts = [
        subprocess.Popen(
            ["bash", "-c", line.split(": ", 1)[1]],
            env=shared | {"NODE_RANK": str(node)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    for host in hosts:
        output, _ = host.communicate(timeout=600)
        assert host.returncode == 0, output
    command("pretrain", *words, f"run_dir={alone}")
    assert losses(run) == losses(alone)
    assert events(run)[-1]["ids_hash"] == events(alone)[-1]["ids_hash"]
