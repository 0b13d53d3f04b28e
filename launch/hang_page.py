"""One readable page about a run that hung, out of what its ranks wrote."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

PAGE = "hang.md"


def write_page(logs: Path, world: int) -> Path | None:
    """Make LOGS/hang.md; None when no rank wrote anything.

    Ranks that wait at the same place are the majority; those elsewhere, or that could not answer, are named first.
    """
    reports = {rank: report for rank in range(world) if (report := _read(logs / f"hang_rank_{rank}.json"))}
    if not reports:
        return None
    places = {rank: _place(report) for rank, report in reports.items()}
    usual = Counter(places.values()).most_common(1)[0][0]
    silent = [rank for rank in range(world) if rank not in reports]
    different = [rank for rank, place in places.items() if place != usual]
    lines = ["# The run did not advance", ""]
    lines += [f"- rank {rank}: **no answer** (stopped, killed, or its node is gone)" for rank in silent]
    lines += [f"- rank {rank} on {reports[rank]['host']}: **elsewhere**: {places[rank]}" for rank in different]
    count = len(places) - len(different)
    lines += [f"- {count} of {world} ranks wait at: {usual}", ""]
    for rank in [*different, *(rank for rank in reports if rank not in different)]:
        report = reports[rank]
        lines += [f"## rank {rank}, {report['host']}: {report['what']}, step {report['step']}", ""]
        lines += [f"samples: {report['samples']}", "", "```", report["stacks"].rstrip(), "```", ""]
        if report["collectives"]:
            lines += ["last collectives (torch flight recorder):", "", "```", report["collectives"], "```", ""]
    page = logs / PAGE
    page.write_text("\n".join(lines))
    return page


def suspects(logs: Path, world: int) -> str:
    """The first lines of the page in one sentence."""
    page = write_page(logs, world)
    if page is None:
        return "the run hung and no rank could say where"
    named = [line[2:].replace("*", "") for line in page.read_text().splitlines() if line.startswith("- ")]
    return f"the run hung: {'; '.join(named)}; see {page}"


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _place(report: dict[str, Any]) -> str:
    """What the main thread was doing: work, step, and the frame of this package that is nearest to where it stands."""
    frames = [
        line.strip() for line in report["stacks"].split("(most recent call first):")[-1].splitlines() if line.strip()
    ]
    top = frames[0] if frames else "?"
    own = next((frame for frame in frames if "/megabiomed/" in frame), top)
    return f"{report['what']}, step {report['step']}: {top} < {own}"
