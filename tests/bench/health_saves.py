"""Storage that refuses to be written for a while: a full disk, and errors of the device."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

from bench.health_plan import Plan
from megabiomed.checkpoint import tensorfile
from megabiomed.processes.signals import Request
from megabiomed.runs import unsaved
from megabiomed.runs.hooks import Hook
from megabiomed.runs.trainer import Trainer
from megabiomed.runs.training import Training

PAUSE_S = 0.02


class FailingStorage(Hook):
    """From each step of the plan on, some tries to write a checkpoint fail on one rank, or on all for a full disk.

    A full disk refuses the bytes of a tensor in the midst of a file; a failing device refuses to make them durable.
    Tries are counted instead of seconds, or a slow machine would begin to save when the storage is back.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._left = 0
        self._refused = 0
        self._rank = 0
        self._events: list[dict[str, Any]] = []

    def into(self, trainer: Trainer) -> None:
        """See `health_worker.Injection`."""
        self._rank = trainer.mesh.rank
        unsaved.FIRST_PAUSE_S = PAUSE_S
        trainer.hooks.insert(0, self)
        if self._plan.kind == "disk_full":
            self._fill_disk()
        else:
            self._break_device()

    def between_steps(self, training: Training, asked: Request) -> None:
        """See the base class. Before the save of this step."""
        if training.step not in self._plan.at:
            return
        self._note()
        dice = self._plan.dice(training.step)
        struck = dice.randrange(self._plan.world)
        if self._plan.kind == "disk_full" or struck == self._rank:
            self._left = int((self._plan.settings or {})["tries"])

    def found(self) -> dict[str, Any]:
        """See `health_worker.Injection`."""
        self._note()
        return {"refused": self._refused}

    def _note(self) -> None:
        self._left = 0

    def _away(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        self._refused += 1
        return True

    def _fill_disk(self) -> None:
        stream = tensorfile._stream

        def full(*arguments: Any) -> Iterator[Any]:
            for number, data in enumerate(stream(*arguments)):
                if number and self._away():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                yield data

        tensorfile._stream = full

    def _break_device(self) -> None:
        fsync = os.fsync

        def failing(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            if "/checkpoints/" in os.readlink(f"/proc/self/fd/{number}") and self._away():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            fsync(file)

        os.fsync = failing
