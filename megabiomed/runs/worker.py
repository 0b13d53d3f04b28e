"""Entry point of one rank: `python -m megabiomed.runs.worker CONFIG.yaml [PART]` under torchrun, srun or our launcher."""

from __future__ import annotations

import sys
from collections.abc import Callable

from megabiomed.config import RunConfig
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.effective import announce
from megabiomed.runs.kinds import kind_of_config, read_run


def run(read: Callable[[], RunConfig], part: str | None = None) -> int:
    """Join the run and train; returns the process's exit code.

    Args:
        read: gives the configuration; an error of it is reported as one of the training is.
        part: one part of the run only.
    """

    def train(config: RunConfig, stop: StopFlag) -> str:
        return kind_of_config(config).train(config, part, stop)

    return join(lambda: announce(read()), train)


if __name__ == "__main__":
    from megabiomed.processes import platform

    platform.leave(run(lambda: read_run(sys.argv[1], []), sys.argv[2] if len(sys.argv) > 2 else None))
