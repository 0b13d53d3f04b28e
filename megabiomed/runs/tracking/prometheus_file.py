"""Prometheus: `metrics.prom` in the run folder, in the text format that node_exporter's textfile collector reads.

Names follow https://prometheus.io/docs/practices/naming/: base units, `_total` for counters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile

from megabiomed.config import RunConfig
from megabiomed.runs.tracking.base import Figures

FILE = "metrics.prom"
PREFIX = "megabiomed_"
HELP = {
    "up": "1 while the run is training, 0 when it is over.",
    "step": "Optimizer steps done.",
    "measured_timestamp_seconds": "When the newest figure was measured.",
    "events": "Events of the run, by kind.",
}
"""Of the metrics that are no figures. `megabiomed status --prometheus` writes the same ones."""
_SECONDS = re.compile(r"_s(?=$|_per_)")


def _second(found: re.Match[str]) -> str:
    """`_s` written out: tokens_per_second, but eta_seconds."""
    return "_second" if found.string[: found.start()].endswith("_per") else "_seconds"


def metric_name(figure: str) -> str:
    """`megabiomed_train_tokens_per_second` of `train/tokens_per_s`."""
    part, _, what = figure.partition("/")
    return PREFIX + re.sub(r"[^A-Za-z0-9_]", "_", f"{part}_{_SECONDS.sub(_second, what)}")


def figure_help(figure: str) -> str:
    """What the metric of a figure says of itself."""
    return f"{figure} at the newest step that has it."


class PrometheusFile:
    """The newest value of every figure, and how often each kind of event happened since this start began."""

    name = "the Prometheus file"

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._gauges: dict[str, Gauge] = {}
        self._file = self._run = ""
        self._events = Counter(f"{PREFIX}events", HELP["events"], ["run", "kind"], registry=self._registry)

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""
        self._run = config.name
        self._file = str(config.folder / FILE)
        self._set(f"{PREFIX}up", HELP["up"], 1.0)

    def metrics(self, figures: Sequence[Figures]) -> None:
        """See `Tracker`."""
        for figure in figures:
            for name, value in figure.values.items():
                self._set(metric_name(name), figure_help(name), value)
            self._set(f"{PREFIX}step", HELP["step"], figure.step)
            self._set(f"{PREFIX}measured_timestamp_seconds", HELP["measured_timestamp_seconds"], figure.time)
        self._write()

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        self._events.labels(self._run, kind).inc()
        self._write()

    def finish(self, status: str) -> None:
        """See `Tracker`."""
        self._set(f"{PREFIX}up", HELP["up"], 0.0)
        self._write()

    def _set(self, name: str, text: str, value: float) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(name, text, ["run"], registry=self._registry)
        self._gauges[name].labels(self._run).set(value)

    def _write(self) -> None:
        write_to_textfile(self._file, self._registry)  # whole or not at all
        os.chmod(self._file, 0o644)  # another user, the exporter, reads it
