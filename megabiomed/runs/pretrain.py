"""Continued pretraining of a language model on text."""

from __future__ import annotations

from megabiomed.config import RunConfig
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.trainer import Trainer


def train(config: RunConfig, part: str | None, stop: StopFlag) -> str:
    """Pretrain on this rank; says how it ended."""
    return Trainer(config, stop).run()
