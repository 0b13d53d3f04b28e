"""Tells what is wrong with the GPUs of the nodes: one rank of each node watches, rank 0 reports."""

from __future__ import annotations

import os
from pathlib import Path

import torch.distributed as dist

from megabiomed.processes import platform
from megabiomed.processes.gpu_health import Watch
from megabiomed.processes.hang import LOGS
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.training import Step, Training


class GpuHealth(Hook):
    """A thread on the first rank of each node; the step itself only takes what the thread has brought."""

    def __init__(self) -> None:
        self._watch: Watch | None = None

    def at_start(self, training: Training) -> None:
        """See the base class."""
        every_s = training.config.health.gpu_every_s
        if not every_s or not platform.has_cuda() or os.environ.get("LOCAL_RANK", "0") != "0":
            return
        logs = Path(os.environ.get(LOGS) or training.config.folder / "logs")
        self._watch = Watch(logs, every_s, dist.get_rank() == 0, training.reporter.say)
        self._watch.start()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        self._tell(training)

    def on_leave(self, training: Training) -> None:
        """See the base class."""
        if self._watch is not None:
            self._watch.stop()
            self._tell(training)

    def _tell(self, training: Training) -> None:
        for found in self._watch.news() if self._watch is not None else []:
            values = {key: found.get(key) for key in ("gpu", "text", "bad")}
            host = found.get("node")
            training.reporter.event("gpu_health", step=training.step, host=host, fault=found.get("kind"), **values)
            gpu = "" if values["gpu"] is None else f" GPU {values['gpu']}"
            training.reporter.remark(f"gpu: {host}{gpu}: {values['text']}")
