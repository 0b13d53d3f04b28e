"""Entry point of one rank: `python -m megabiomed.runs.worker_align CONFIG.yaml [STAGE]` (torchrun, srun, our launcher)."""

from __future__ import annotations

import sys

from megabiomed.config import load_config
from megabiomed.config.align import AlignRunConfig
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag


def run(config: AlignRunConfig, stage: str | None) -> int:
    """Join the run and train; returns the process's exit code."""

    def train(stop: StopFlag) -> str:
        from megabiomed.runs.align import run_stages

        return run_stages(config, stop, stage)

    return join(train)


def load(path: str, overrides: list[str] | None = None) -> AlignRunConfig:
    """An alignment run file."""
    return load_config(path, overrides, AlignRunConfig)


if __name__ == "__main__":
    from megabiomed.processes import platform

    platform.leave(run(load(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None))
