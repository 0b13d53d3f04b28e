"""One rank of four, of which one gets slow: two pipeline stages with different work, two ranks each.

python slow_ranks_worker.py FOLDER SLOW_RANK
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from support.hooks import Told, training

from megabiomed.processes import platform
from megabiomed.runs.hooks import slow_ranks
from megabiomed.runs.step_times import StepTimes

WINDOW = 3
CLEAN, SLOWED = 15, 18


def work(stage: int, slow: bool) -> None:
    """Sleeping does not disturb the others on a machine with few cores; a busy rank works with one of them."""
    time.sleep(0.03 * (1 + stage))
    until = time.perf_counter() + (0.15 if slow else 0.0)
    while time.perf_counter() < until:
        pass


def main() -> None:
    folder, slow_rank = Path(sys.argv[1]), int(sys.argv[2])
    platform.init_distributed(timeout_s=60, megatron=False)
    rank = dist.get_rank()
    reporter, times = Told(), StepTimes()
    mesh = SimpleNamespace(in_model=True, coordinate=lambda span: rank // 2)
    run: Any = training(0, folder, reporter=reporter, times=times, mesh=mesh)
    settings = run.config.health.model_copy(update={"slow_share": 0.3, "slow_windows": 4})
    run.config = run.config.model_copy(
        update={"health": settings, "train": run.config.train.model_copy(update={"log_every": WINDOW})}
    )
    slow_ranks.LEAST_STEPS = WINDOW
    hook = slow_ranks.SlowRanks()
    hook.at_start(run)
    gradient = torch.ones(8)
    with times.measuring():
        for number in times.reading(range(1, CLEAN + SLOWED + 1)):
            with times.step():
                work(rank // 2, slow=number > CLEAN and rank == slow_rank)
                sent = dist.all_reduce(gradient, async_op=True)
                assert sent is not None
                sent.wait()
            hook.after_step(run, SimpleNamespace(number=number))  # type: ignore[arg-type]
    hook.on_leave(run)
    (folder / f"told_{rank}.json").write_text(json.dumps(reporter))
    platform.leave()


if __name__ == "__main__":
    main()
