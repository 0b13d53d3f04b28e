"""Which nodes are bad, from what their preflights wrote."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from megabiomed.launch.records import SLURM

PREFLIGHT = "preflight"
TIMES = {"matmul_s": "matrix product", "allreduce_s": "all-reduce"}


def result_file(run: Path, incarnation: str, node: str) -> Path:
    """Where a node writes its result."""
    return run / SLURM / PREFLIGHT / incarnation / f"{node}.json"


def bad_nodes(run: Path, incarnation: str, nodes: list[str], slow_factor: float) -> dict[str, str]:
    """Node -> why it is bad: no result, a failed check, or slower than `slow_factor` times the median of all nodes."""
    bad, times = {}, {}
    for node in nodes:
        try:
            found = json.loads(result_file(run, incarnation, node).read_text())
        except (OSError, ValueError):
            bad[node] = "no answer"
            continue
        if found["problems"]:
            bad[node] = ", ".join(found["problems"])
        times[node] = found["times"]
    for name, what in TIMES.items():
        known = {node: values[name] for node, values in times.items() if name in values}
        usual = median(known.values()) if len(known) > 2 else 0.0
        for node, seconds in known.items():
            if usual and seconds > slow_factor * usual:
                bad.setdefault(node, f"slow {what}: {seconds:.3f} s, median {usual:.3f} s")
    return bad
