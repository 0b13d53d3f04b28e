"""Entry point of one rank: `python -m megabiomed.runs.worker_pretrain CONFIG.yaml` under torchrun, srun or our launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable

from megabiomed.config import RunConfig, load_config
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag


def run(load: Callable[[], RunConfig]) -> int:
    """Join the run and train; returns the process's exit code."""

    def train(stop: StopFlag) -> str:
        from megabiomed.runs.trainer import Trainer

        return Trainer(load(), stop).run()

    return join(train)


if __name__ == "__main__":
    from megabiomed.processes import platform

    platform.leave(run(lambda: load_config(sys.argv[1])))
