"""A pretraining run that is interrupted at a known step: its last rank is killed, or it waits for a signal of srun."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch.distributed as dist

from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.config import RunConfig
from megabiomed.launch.selftest.plan import HOW, KILLED_AFTER, LONG, SAVE_EVERY, SIGNALLED_AFTER, WAITS
from megabiomed.processes.signals import StopFlag
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.kinds import Kind
from megabiomed.runs.pretrain import run_of
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Step, Training

_COMMIT_S = 5.0
_SIGNAL_S = 60.0


class Interruption(Hook):
    """Interrupts one rank, after a step at which the ranks have a checkpoint behind them."""

    def __init__(self, stop: StopFlag, how: str) -> None:
        self._stop = stop
        self._how = how

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        done, rank = training.step, dist.get_rank()
        victim = self._how == "kill" and rank == dist.get_world_size() - 1 and done >= KILLED_AFTER
        # Saves are written in the background; without one the next start would begin anew.
        if victim and (_appears(training.config.folder / "checkpoints", f"step_{SAVE_EVERY:08d}") or done == LONG - 1):
            die()
        if self._how == "signal" and done == SIGNALLED_AFTER and rank == 0:
            (training.config.folder / WAITS).touch()
            deadline = time.monotonic() + _SIGNAL_S
            while self._stop.received is None and time.monotonic() < deadline:
                time.sleep(0.05)


def die() -> None:
    """End this process at once, as the kernel ends one."""
    os.kill(os.getpid(), signal.SIGKILL)
    os._exit(137)  # the first process of a PID namespace, as podman starts it, cannot kill itself


def _appears(checkpoints: Path, name: str) -> bool:
    deadline = time.monotonic() + _COMMIT_S
    while not (checkpoints / name / COMMITTED).exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def train(config: RunConfig, part: str | None, stop: StopFlag) -> str:
    """Pretrain on this rank until the interruption."""
    trainer = Trainer(run_of(config, part), stop)
    trainer.hooks.append(Interruption(stop, os.environ.get(HOW, "")))
    return trainer.train()


INTERRUPTED = Kind(
    name="selftest",
    section="",
    config=RunConfig,
    title="a run of the self-test",
    trainer="megabiomed.launch.selftest.interrupted:train",
    check="megabiomed.runs.preview.pretrain:check",
    describe="megabiomed.runs.preview.pretrain:describe",
    run="megabiomed.runs.pretrain:run_of",
)
