"""Entry point of one rank: `python -m megabiomed.runs.worker_finetune CONFIG.yaml` under torchrun, srun or our launcher."""

from __future__ import annotations

import sys

from megabiomed.config import load_config
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag


def run(config: FinetuneRunConfig) -> int:
    """Join the run and train; returns the process's exit code."""

    def train(stop: StopFlag) -> str:
        from megabiomed.runs.finetune import FinetuneTrainer

        return FinetuneTrainer(config, stop).run()

    return join(train)


def load(path: str, overrides: list[str] | None = None) -> FinetuneRunConfig:
    """A fine-tuning run file."""
    return load_config(path, overrides, FinetuneRunConfig)


if __name__ == "__main__":
    from megabiomed.processes import platform

    platform.leave(run(load(sys.argv[1])))
