"""Which nodes are bad, from what their preflights wrote."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import median_low
from typing import Any

from megabiomed.ground.secrets import masked
from megabiomed.launch.last_words import end_of, last_error
from megabiomed.launch.records import SLURM

_NO_CODE = "No module named 'megabiomed"
PREFLIGHT, MET = "preflight", "met the others"
_SLOW = re.compile(r"slow [a-z ]+: [\d.]+ s, usual [\d.]+ s")
TIMES = {"matmul_s": "matrix product", "link_s": "exchange with its neighbours"}
CLOCK_S = 30.0
"""Larger differences between clocks mislead time limits, the ages of checkpoints and readers of the logs."""
SMI_FIELDS = {
    "ecc.errors.uncorrected.volatile.total": "uncorrected ECC errors",
    "clocks_throttle_reasons.hw_slowdown": "clock slowed down by the hardware",
    "clocks_throttle_reasons.hw_thermal_slowdown": "clock slowed down by heat",
}


def is_slow(why: str) -> bool:
    """Whether a node is bad only because it is slow: a run can use it where no other is left."""
    return _SLOW.fullmatch(why) is not None


def result_file(run: Path, incarnation: str, node: str) -> Path:
    """Where a node writes its result."""
    return run / SLURM / PREFLIGHT / incarnation / f"{node}.json"


def bad_nodes(run: Path, incarnation: str, nodes: list[str], slow_factor: float) -> dict[str, str]:
    """Node -> why it is bad: no result, a check that failed or hung, or worse than most nodes of its kind.

    Args:
        slow_factor: how many times the usual time a node may take. Of two nodes the faster one is the usual, and the
            other may take twice as many.
    """
    bad: dict[str, str] = {}
    apart: dict[str, str] = {}
    kinds: dict[int, dict[str, dict[str, float]]] = {}
    for node in nodes:
        try:
            result: dict[str, Any] = json.loads(result_file(run, incarnation, node).read_text())
        except (OSError, ValueError):
            bad[node] = _silence(run, incarnation, nodes, node)
            continue
        hung = [f"hung in its check of {result['checking']}"] if result.get("checking") else []
        if words := [*result["problems"], *hung]:
            bad[node] = ", ".join(words)
        if result["meeting"] != MET:
            apart[node] = f"could not meet the others: {result['meeting'] or 'no answer'}"
        kinds.setdefault(result["group"], {})[node] = result["measured"]
    for measured in kinds.values():
        bad = slow_nodes(measured, slow_factor) | wrong_clocks(measured) | bad
    # One bad node keeps all others from meeting. Only where none is known to be bad is the meeting itself evidence.
    return bad or apart


def _silence(run: Path, incarnation: str, nodes: list[str], node: str) -> str:
    """That a node wrote no result, with the last words of its check, which did not begin or ended early."""
    logs = sorted((run / "logs" / incarnation).glob("preflight_*.*.log"), key=_place)
    # In the order of the nodes; a task that could not be started has no log.
    said = last_error(end_of(logs[nodes.index(node)]), by_itself=True) if len(logs) == len(nodes) else None
    if said is None:
        return "no answer"
    unseen = "; if that is in a container, mount the run folder there at the same path" if _NO_CODE in said else ""
    return f"no answer: {masked(said)}{unseen}"


def _place(log: Path) -> tuple[int, int]:
    """Group and number of the task of `preflight_GROUP.TASK.log`."""
    group, task = log.name.split(".")[:2]
    return int(group.rpartition("_")[2]), int(task)


def slow_nodes(measured: dict[str, dict[str, float]], factor: float) -> dict[str, str]:
    """Nodes of one kind that are slow."""
    slow: dict[str, str] = {}
    for name, what in TIMES.items():
        known = {node: values[name] for node, values in measured.items() if name in values}
        usual = median_low(known.values()) if known else 0.0
        # Of two nobody knows the usual time: the faster may be lucky, where other processes take part of both nodes.
        most = factor * usual * (2 if len(known) == 2 else 1)
        for node, seconds in known.items():
            if seconds > most:
                slow.setdefault(node, f"slow {what}: {seconds:.4f} s, usual {usual:.4f} s")
    return slow


def wrong_clocks(measured: dict[str, dict[str, float]]) -> dict[str, str]:
    """Nodes whose clock, read after a barrier, is far from the others'; of two, from that of the first, the head node.

    Args:
        measured: node -> what it measured, in the order of the job's nodes.
    """
    known = {node: values["clock_s"] for node, values in measured.items() if "clock_s" in values}
    # From three on there is a majority. Of two that differ nobody knows which is wrong, but the head node's decides when the
    # job leaves, so the job is started on another pair.
    usual = median_low(known.values()) if len(known) > 2 else next(iter(known.values()), 0.0)
    return {
        node: f"its clock is {seconds - usual:+.0f} s off"
        for node, seconds in known.items()
        if abs(seconds - usual) > CLOCK_S
    }


def pairings(world: int) -> list[list[tuple[int, int]]]:
    """Rounds of pairs of neighbours on a ring: every rank meets both of its neighbours (of two ranks, the other one)."""
    # Pairs of a round are disjoint, so no exchange waits for another; an odd ring needs a third round for its last pair.
    ring = [(rank, (rank + 1) % world) for rank in range(world)]
    if world == 2:
        return [[(0, 1)]]
    last = [[ring[-1]]] if world % 2 else []
    return [ring[0 : world - world % 2 : 2], ring[1 : world - world % 2 : 2], *last]


def smi_problems(said: str) -> list[str]:
    """Complaints about GPUs from `nvidia-smi --query-gpu=index,FIELDS --format=csv,noheader,nounits`."""
    problems = []
    for line in said.splitlines():
        index, *values = (word.strip() for word in line.split(","))
        for what, value in zip(SMI_FIELDS.values(), values):
            if value == "Active" or (value.isdigit() and int(value)):
                problems.append(f"GPU {index}: {what}" + (f" ({value})" if value.isdigit() else ""))
    return problems
