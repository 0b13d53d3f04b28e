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
import torch.multiprocessing as mp

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState

ROWS = 12
STATE = RunState(trainer=TrainerState(global_step=1), architecture={}, config_text="")


def save_rows(rank: int, world_size: int, folder: Path) -> None:
    """One process: save rows of a tensor, the last rank with an error at step 2."""
    store = torch.distributed.FileStore(str(folder / "store"), world_size)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    share = ROWS // world_size
    box = Box("w", (ROWS, 2), (rank * share, 0), (share, 2))
    writer = CheckpointWriter(folder / "ck", Ranks.of_group())
    writer.save(1, [Fragment(box, {"param": torch.full(box.shape, float(rank))})], STATE)
    wrong = torch.zeros(1) if rank == world_size - 1 else torch.zeros(box.shape)
    try:
        writer.save(2, [Fragment(box, {"param": wrong})], STATE)
    except Exception as error:
        (folder / f"error_{rank}").write_text(str(error))
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(120)
def test_processes_save_together_and_fail_together(tmp_path: Path) -> None:
    mp.start_processes(save_rows, args=(3, tmp_path), nprocs=3, start_method="fork")
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
