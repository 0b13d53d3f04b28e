"""One rank that saves rows of a tensor together with the others, the last rank with an error at step 2.

python rows_worker.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from megabiomed.checkpoint.commit import CheckpointWriter, Ranks, RunState
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.state import TrainerState
from megabiomed.processes import platform

ROWS = 12
STATE = RunState(trainer=TrainerState(global_step=1), architecture={}, config_text="")


def main() -> None:
    folder = Path(sys.argv[1])
    platform.init_distributed(timeout_s=60)
    rank = dist.get_rank()
    world_size = dist.get_world_size()
    share = ROWS // world_size
    box = Box("w", (ROWS, 2), (rank * share, 0), (share, 2))
    writer = CheckpointWriter(folder / "ck", Ranks.of_group())
    writer.save(1, [Fragment(box, {"param": torch.full(box.shape, float(rank))})], STATE)
    wrong = torch.zeros(1) if rank == world_size - 1 else torch.zeros(box.shape)
    try:
        writer.save(2, [Fragment(box, {"param": wrong})], STATE)
    except Exception as error:
        (folder / f"error_{rank}").write_text(str(error))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
