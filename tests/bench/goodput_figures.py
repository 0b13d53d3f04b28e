"""Figures of `make bench-goodput` from what a run wrote: pure functions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

GOAL = 0.9


def plan(kinds: Sequence[str], count: int, seed: int) -> list[str]:
    """So many faults in a random order: each kind once, as far as they go, and then any."""
    dice = random.Random(seed)
    first = dice.sample(list(kinds), k=min(count, len(kinds)))
    more = [dice.choice(list(kinds)) for _ in range(count - len(first))]
    drawn = first + more
    dice.shuffle(drawn)
    return drawn


def standing(metrics: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """step -> its last record: what was computed again replaces what was lost."""
    return {record["step"]: record for record in metrics}


def goodput(metrics: Sequence[dict[str, Any]], imports: Sequence[float], wall_s: float) -> dict[str, Any]:
    """Share of the time in which steps were made that count.

    Args:
        metrics: records of steps, in the order of the file.
        imports: seconds for which each start within that time imported its libraries.
        wall_s: from the first step to the end.
    """
    stand = standing(metrics)
    useful = sum(record["train/step_s"] for record in stand.values())
    rest = wall_s - sum(imports)
    return {
        "goodput": round(useful / rest, 4),
        "goodput_with_imports": round(useful / wall_s, 4),
        "useful_step_s": round(useful, 1),
        "wall_s": round(wall_s, 1),
        "imports_s": round(sum(imports), 1),
        "steps": len(stand),
        "steps_done_again": len(metrics) - len(stand),
        "median_step_s": round(sorted(r["train/step_s"] for r in stand.values())[len(stand) // 2], 4),
    }


def by_kind(faults: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind of fault: how many, mean and worst recovery, steps lost."""
    rows = []
    for kind in dict.fromkeys(fault["fault"] for fault in faults):
        mine = [fault for fault in faults if fault["fault"] == kind]
        took = [fault["recovery_s"] for fault in mine]
        steps = [fault["steps_lost"] for fault in mine]
        rows.append(
            {
                "fault": kind,
                "count": len(mine),
                "recovery_s mean": round(sum(took) / len(took), 1),
                "recovery_s worst": round(max(took), 1),
                "imports_s mean": round(sum(fault["imports_s"] for fault in mine) / len(mine), 1),
                "steps lost": ", ".join(map(str, steps)),
                "steps since the save": ", ".join(str(fault["steps_at_risk"]) for fault in mine),
            }
        )
    return rows
