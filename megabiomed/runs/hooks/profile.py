"""A window of steps under torch's profiler: a trace and tables of where the time went, on any rank."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from megabiomed.data.loader import StepBatch
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.files import write_json
from megabiomed.processes import platform
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.kernel_classes import Share, Span, by_class, class_of, collective_of, shares
from megabiomed.runs.training import Step, Training

FOLDER = "profile"
_ROWS = 12


class Profile(Hook):
    """Records the steps of `profile.steps` on the ranks of `profile.ranks`, once in a start that does the first of them."""

    def __init__(self) -> None:
        self._profiler: Any = None
        self._first = 0
        self._began = 0.0

    def at_start(self, training: Training) -> None:
        """See the base class. Refuses ranks that the run does not have, on all ranks alike."""
        wanted = training.config.profile
        if wanted is not None and (missing := [rank for rank in wanted.ranks if rank >= training.mesh.world]):
            raise ConfigError(
                "profile.ranks names ranks that the run does not have",
                got=str(missing),
                expected=f"0 to {training.mesh.world - 1}",
            )

    def before_step(self, training: Training, batch: StepBatch) -> None:
        """See the base class."""
        wanted = training.config.profile
        if wanted is None or training.step + 1 != wanted.steps[0] or training.mesh.rank not in wanted.ranks:
            return
        if self._profiler is not None:  # the run rewound within the window, which goes on
            return
        platform.synchronize()
        self._first, self._began = training.step + 1, time.monotonic()
        self._profiler = torch.profiler.profile(activities=platform.profiled(), profile_memory=wanted.memory)
        self._profiler.start()

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        wanted = training.config.profile
        if wanted is not None and step.number == wanted.steps[1]:
            self._finish(training, step.number)

    def on_leave(self, training: Training) -> None:
        """See the base class. A window that a stop cuts short is written as far as it came."""
        self._finish(training, training.step)

    def _finish(self, training: Training, last: int) -> None:
        if self._profiler is None:
            return
        platform.synchronize()
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        seconds = time.monotonic() - self._began
        name = f"steps_{self._first}-{last}_rank_{training.mesh.rank}"
        folder = training.config.folder / FOLDER
        folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(folder / f"{name}.trace.json.gz"))
        tables = _tables(profiler)
        _write_tables(folder / f"{name}.json", tables, seconds)
        if training.reporter.active:
            for line in _lines(tables, seconds, f"{self._first} to {last}"):
                training.reporter.say(line)
            training.reporter.event("profile", step=last, folder=str(folder), seconds=round(seconds, 3))
        training.reporter.start_clock()


def _tables(profiler: Any) -> dict[str, list[Share]]:
    """Time by class and by collective: of kernels on a GPU, and of operations without those inside them on a CPU."""
    if platform.has_cuda():
        kernels = [
            Span(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
            for event in profiler.profiler.kineto_results.events()
            if event.device_type() == torch.autograd.DeviceType.CUDA and event.duration_ns() > 0
        ]
        parts = [(span.name, span.end - span.start, 1) for span in kernels]
        classes = by_class(kernels)
    else:
        parts = [(event.key, int(1000 * event.self_cpu_time_total), event.count) for event in profiler.key_averages()]
        classes = shares((class_of(name), ns, count) for name, ns, count in parts)
    collectives = ((collective_of(name), ns, count) for name, ns, count in parts)
    return {
        "class": classes,
        "collective": shares((name, ns, count) for name, ns, count in collectives if name is not None),
        "longest": shares(parts)[: 4 * _ROWS],
    }


def _write_tables(file: Path, tables: dict[str, list[Share]], seconds: float) -> None:
    rows = {
        table: [{"name": share.name, "seconds": share.ns / 1e9, "calls": share.calls} for share in held]
        for table, held in tables.items()
    }
    write_json(file, {"seconds": seconds, **rows})


def _lines(tables: dict[str, list[Share]], seconds: float, steps: str) -> list[str]:
    """The tables of classes and collectives for the terminal."""
    lines = [f"profile: steps {steps} took {seconds:.3f} s on this rank"]
    for table in ("class", "collective"):
        for share in tables[table][:_ROWS]:
            lines.append(
                f"profile, {table}: {share.name:<18} {share.ns / 1e9:9.4f} s {share.ns / 1e9 / seconds:6.1%} "
                f"{share.calls:,} calls"
            )
    return lines
