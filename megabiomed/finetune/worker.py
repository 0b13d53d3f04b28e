"""Entry point of one rank: `python -m megabiomed.finetune.worker CONFIG.yaml` under the launcher, torchrun or srun."""

from __future__ import annotations

import sys
from typing import cast

from megabiomed.config import load_config
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.train.signals import StopFlag
from megabiomed.train.worker import join


def run(config: FinetuneRunConfig) -> int:
    """Join the run and train; returns the process's exit code."""

    def train(stop: StopFlag) -> str:
        from megabiomed.finetune.trainer import FinetuneTrainer

        return FinetuneTrainer(config, stop).run()

    return join(train)


def load(path: str, overrides: list[str] | None = None) -> FinetuneRunConfig:
    """A fine-tuning run file."""
    return cast(FinetuneRunConfig, load_config(path, overrides, FinetuneRunConfig))


if __name__ == "__main__":
    from megabiomed import platform

    platform.leave(run(load(sys.argv[1])))
