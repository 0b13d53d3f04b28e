"""Real processes: a gloo group saves together, and a process killed at a random moment harms no earlier checkpoint."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from checkpoint.rows_worker import ROWS
from support.spawn import run_ranks

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint

WORKER = Path(__file__).with_name("rows_worker.py")


@pytest.mark.timeout(120)
def test_processes_save_together_and_fail_together(tmp_path: Path) -> None:
    run_ranks(3, [str(WORKER), str(tmp_path)], tmp_path / "logs", timeout_s=100)
    saved = Checkpoint.open(tmp_path / "ck" / "step_00000001", "hash").read(Box.whole("w", (ROWS, 2)))
    assert saved[:, 0].tolist() == [0.0] * 4 + [1.0] * 4 + [2.0] * 4
    errors = [(tmp_path / f"error_{rank}").read_text() for rank in range(3)]
    assert all("checkpoint of step 2 was not written: rank 2 failed" in error for error in errors)
    assert [item.name for item in (tmp_path / "ck").iterdir()] == ["step_00000001"]


WRITER = """
import sys, torch
from pathlib import Path
from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.state import TrainerState
writer = CheckpointWriter(Path(sys.argv[1]))
for step in range(1, 10_000):
    view = torch.full((1 << 19,), float(step))
    fragments = [Fragment(Box.whole("w", view.shape), {"param": view, "exp_avg": view})]
    writer.save(step, fragments, RunState(TrainerState(), {}, ""))
    print(step, flush=True)
    writer.prune(keep_last=2)
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_leaves_what_it_committed(tmp_path: Path, seed: int) -> None:
    random_moment = random.Random(seed).uniform(0.0, 0.1)
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    reported = [int(writer.stdout.readline()) for _ in range(3)]
    killer = threading.Timer(random_moment, writer.kill)
    killer.start()
    reported += [int(line) for line in writer.stdout]
    assert writer.wait() == -signal.SIGKILL
    latest, _ = latest_valid(tmp_path, "hash")
    assert latest is not None
    assert latest.step >= reported[-1]
    values = latest.read(Box.whole("w", (1 << 19,)))
    assert torch.equal(values, torch.full((1 << 19,), float(latest.step)))
