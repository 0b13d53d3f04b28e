"""The part of a report about ranks: work, waits and data of a step, and which ranks held the others up."""

from __future__ import annotations

from statistics import median
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import read_json
from megabiomed.ground.html import table
from megabiomed.runs.hooks.slow_ranks import FILE
from megabiomed.runs.report.charts import lines
from megabiomed.runs.report.facts import RunFacts

_PARTS = ("compute", "wait", "data")
_SHOWN = 16


def ranks_part(facts: RunFacts) -> str:
    """HTML: curves of the mean of all ranks, those that were slow, and the newest times of each kind of rank."""
    curves = {part: facts.curves[f"ranks/{part}_s"] for part in _PARTS if f"ranks/{part}_s" in facts.curves}
    found = lines(curves, "seconds of a step, mean of all ranks", [], 2.2) if curves else ""
    return found + _slow(facts) + _newest(facts)


def _slow(facts: RunFacts) -> str:
    """A row for each rank, host and part that was slow, worst first."""
    held: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for event in facts.events:
        if event["event"] == "slow_rank":
            key = tuple(str(event.get(name, "")) for name in ("rank", "host", "work", "part"))
            held.setdefault(key, []).append(event)
    if not held:
        return ""
    worst = {key: max(_number(event.get("factor")) for event in events) for key, events in held.items()}
    rows = [
        [*key, f"{worst[key]:.3g} x", ", ".join(f"{event.get('step', '')}" for event in held[key][:_SHOWN])]
        for key in sorted(held, key=lambda key: -worst[key])
    ]
    head = ["rank", "host", "work", "slow in", "as long as its peers", "from step"]
    return "<h3>Slow ranks</h3>" + table(head, rows, words=True)


def _newest(facts: RunFacts) -> str:
    """Median of each kind of rank, and the rank that works longest."""
    try:
        held = read_json(facts.folder / FILE, dict)
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in held["ranks"]:
            groups.setdefault(row["work"], []).append(row)
        rows = [_group(work, each) for work, each in groups.items()]
    except (FileError, KeyError, TypeError):
        return ""
    head = ["work", "ranks", *(f"{part}, median" for part in _PARTS), "works longest"]
    return f"<h3>Times of a step before step {held.get('step')}</h3>" + table(head, rows)


def _group(work: str, rows: list[dict[str, Any]]) -> list[str]:
    longest = max(rows, key=lambda row: row["compute_s"] + row["data_s"])
    return [
        work, str(len(rows)), *(f"{median(row[f'{part}_s'] for row in rows):.4g} s" for part in _PARTS),
        f"rank {longest['rank']} on {longest['host']}, {longest['compute_s'] + longest['data_s']:.4g} s",
    ]  # fmt: skip


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
