"""Entry point of one rank: `python -m megabiomed.runs.replay.worker PLAN.json FOUND.json` under the launcher."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from megabiomed.ground.files import read_json, write_json
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag
from megabiomed.runs import kinds
from megabiomed.runs.replay.plan import Plan


def run(plan: Plan, output: Path) -> int:
    """Join the replay; returns the process's exit code. Rank 0 writes what was found."""

    def replay(plan: Plan, stop: StopFlag) -> str:
        from megabiomed.runs.replay.recompute import Replay

        config = kinds.read_run(plan.config, [])
        found = Replay(plan, kinds.kind_of_config(config).run_of(config, plan.part), stop, _say).compute()
        if found is not None:
            write_json(output, found)
        return "finished"

    return join(lambda: plan, replay)


def is_first() -> bool:
    """Whether this process is rank 0, or none of the ranks yet."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def _say(line: str) -> None:
    if is_first():
        print(line, flush=True)


if __name__ == "__main__":
    from megabiomed.processes import platform

    platform.leave(run(Plan.model_validate(read_json(Path(sys.argv[1]))), Path(sys.argv[2])))
