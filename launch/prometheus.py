"""`megabiomed status --prometheus`: all runs of a user for node_exporter's textfile collector, in Prometheus' text format.

Figures have the names that a run's own tracker gives them (runs/tracking/prometheus_file.py); names follow
https://prometheus.io/docs/practices/naming/: base units, `_total` for counters, times of events instead of ages.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from megabiomed.checkpoint.fence import of_owners
from megabiomed.ground.figures import NOT_FINITE
from megabiomed.ground.files import write_atomic
from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.launch import records
from megabiomed.launch.avoid import found_bad
from megabiomed.launch.status import is_figure, last_metrics
from megabiomed.launch.status_table import Group, belongs
from megabiomed.runs.tracking.prometheus_file import HELP, PREFIX, figure_help, metric_name

Labels = tuple[tuple[str, str], ...]
STATES = ("running", "pending", "finished", "failed", "ended", "unknown")
GAUGES = {
    **{name: HELP[name] for name in ("up", "step", "measured_timestamp_seconds")},
    "run_info": "1; the labels say what the run is.",
    "run_state": "1 for the state that the run is in, 0 for the others.",
    "run_target_steps": "Optimizer steps of the whole run.",
    "run_remaining_seconds": "Expected time to the end, with the pauses between requeues.",
    "run_failures": "Failed starts in a row without progress.",
    "run_failure_budget": "Failed starts in a row after which the run gives up.",
    "checkpoint_step": "Step of the newest committed checkpoint.",
    "checkpoint_timestamp_seconds": "When the newest checkpoint was committed.",
    "ranks_slow": figure_help("ranks/slow"),
    "slow_rank_factor": "How many times as long as its peers a slow rank works.",
    "bad_nodes": "Nodes that the run found bad and avoids.",
    "bad_node": "1 for each node that the run found bad and avoids.",
    "gpu_fault": "1 for each thing that the newest start found wrong with a GPU.",
    "scheduler_up": "1 when the scheduler answered, else 0.",
    "status_timestamp_seconds": "When these metrics were written.",
}
COUNTERS = {
    "events": HELP["events"],
    "run_starts": "Starts of the run.",
    "run_failed_starts": "Starts that failed, or were lost without a word.",
    "run_lost_steps": "Reported steps that a later start did again.",
}


class _Families(Collector):
    """Metrics as they were found, in the order of the tables above."""

    def __init__(self) -> None:
        self.found: dict[str, dict[Labels, float]] = {}
        self.figures: dict[str, str] = {}

    def add(self, name: str, value: Any, **labels: str | None) -> None:
        """A value, unless it is not known."""
        if is_figure(value) or value == NOT_FINITE:
            kept = tuple((key, label or "") for key, label in labels.items())
            # By its labels: a series that is there twice makes the whole file invalid.
            self.found.setdefault(name, {})[kept] = math.nan if value == NOT_FINITE else float(value)

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        kinds: Iterable[tuple[type[GaugeMetricFamily] | type[CounterMetricFamily], dict[str, str]]]
        kinds = ((GaugeMetricFamily, GAUGES), (CounterMetricFamily, COUNTERS), (GaugeMetricFamily, self.figures))
        for kind, helps in kinds:
            for name, text in helps.items():
                samples = self.found.get(name, {})
                if not samples:
                    continue
                family = kind(PREFIX + name, text, labels=[key for key, _ in next(iter(samples))])
                for labels, value in samples.items():
                    family.add_metric([label for _, label in labels], value)
                yield family


def exposition(statuses: list[dict[str, Any]]) -> str:
    """The text of everything that is known about runs.

    Args:
        statuses: from `launch.status.statuses`.
    """
    families = _Families()
    families.add("scheduler_up", float(not any(each["state"].startswith("scheduler") for each in statuses)))
    families.add("status_timestamp_seconds", time.time())
    for status, name in zip(statuses, _names([Path(each["run"]) for each in statuses])):
        _add_status(families, status, name)
        _add_records(families, Path(status["run"]), name)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(families)
    return generate_latest(registry).decode()


def write(file: Path, text: str) -> None:
    """Replace a file whole, so that the collector never reads half of it; everybody may read it, the exporter too."""
    write_atomic(file, text, 0o644)
    file.chmod(0o644)


def _names(runs: list[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell the runs apart: two series of one name make a file invalid."""
    whole = [run.absolute().parts for run in runs]
    names = []
    for parts in whole:
        ends = ("/".join(parts[-length:]) for length in range(1, len(parts)))
        names.append(next((end for end in ends if sum(_ends(each, end) for each in whole) == 1), "/".join(parts)))
    return names


def _ends(parts: tuple[str, ...], end: str) -> bool:
    return "/".join(parts[-len(end.split("/")) :]) == end


def _add_status(families: _Families, status: dict[str, Any], run: str) -> None:
    state = _state(status)
    job = str(status["job"]) if status["job"] else None
    families.add(
        "run_info", 1, run=run, chain=status["chain"], stage=status["stage"], job=job, folder=str(status["run"])
    )
    for each in STATES:
        families.add("run_state", float(each == state), run=run, state=each)
    age = status["checkpoint_age_s"]
    values = {
        "up": float(state == "running"),
        "step": status["step"],
        "run_target_steps": status["total_steps"],
        "run_remaining_seconds": status["eta_s"],
        "run_failures": status["failures"],
        "run_failure_budget": status["max_failures"],
        "checkpoint_step": status["checkpoint_step"],
        "checkpoint_timestamp_seconds": time.time() - age if age is not None else None,
        "ranks_slow": len(status["slow"]),
    }
    for name, value in values.items():
        families.add(name, value, run=run)
    families.add("run_starts", status["starts"], run=run)
    for slow in status["slow"]:
        families.add("slow_rank_factor", slow["factor"], run=run, rank=str(slow["rank"]), host=slow["host"])
    for fault in status["gpu_health"]:
        labels = {key: "" if fault[key] is None else str(fault[key]) for key in ("host", "gpu", "fault", "bad")}
        families.add("gpu_fault", 1, run=run, **labels)


def _state(status: dict[str, Any]) -> str:
    if status["state"] == "FINISHED":
        return "finished"
    if status["state"].startswith(("scheduler", "not in the queue")):
        return "unknown" if status["state"].startswith("scheduler") else "ended"
    return next(
        str(group) for group in (Group.RUNNING, Group.PENDING, Group.FAILED, Group.ENDED) if belongs(status, group)
    )


def _add_records(families: _Families, run: Path, name: str) -> None:
    """Figures of the newest step, and counts of what happened since the run began."""
    metrics, history = last_metrics(run), records.history(run)
    for figure, value in metrics.items():
        if "/" in figure and (words := metric_name(figure).removeprefix(PREFIX)) not in GAUGES:
            families.figures.setdefault(words, figure_help(figure))
            families.add(words, value, run=name)
    families.add("measured_timestamp_seconds", seconds_of(metrics.get("time")), run=name)
    families.add("run_failed_starts", _failed(history), run=name)
    lost = [record.get("lost_steps", 0) for record in history if record["kind"] == "begin"]
    families.add("run_lost_steps", sum(steps for steps in lost if is_figure(steps)), run=name)
    bad = sorted(map(str, found_bad(history)))
    families.add("bad_nodes", len(bad), run=name)
    for node in bad:
        families.add("bad_node", 1, run=name, node=node)
    kinds = Counter(str(event.get("event")) for event in of_owners(read_objects(run / records.EVENTS)))
    for kind, count in sorted(kinds.items()):
        families.add("events", count, run=name, kind=kind)


def _failed(history: list[dict[str, Any]]) -> int:
    """Starts whose end was a failure, and those that another one followed without any end."""
    ends = {record.get("incarnation") for record in history if record["kind"] in ("end", "preflight")}
    begins = [record["incarnation"] for record in history if record["kind"] == "begin"]
    broken = [
        record for record in history
        if record["kind"] == "end" and not record.get("outcome") and record.get("decision") in ("requeue", "fail")
        and not record.get("warned")
    ]  # fmt: skip
    return len(broken) + sum(incarnation not in ends for incarnation in begins[:-1])
