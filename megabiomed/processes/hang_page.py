"""One readable page about a run that hung, made from the reports of its ranks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = "hang.md"
_NAMED, _SHOWN = 8, 16
# A rank looks at the clock every second. One that reports later was itself stopped, and woke up when the others were ended.
_LATE_S = 3.5


def write_page(logs: Path, world: int) -> Path | None:
    """Make LOGS/hang.md; None when no rank wrote anything.

    The majority of the ranks waits at the same place. Ranks that are elsewhere or did not answer are named first, as are
    those that did not join the collective in which the others wait: one of them is the cause.
    """
    reports = {rank: report for rank in range(world) if (report := _read(logs / f"hang_rank_{rank}.json"))}
    if not reports:
        return None
    places = {rank: _place(report) for rank, report in reports.items()}
    usual = Counter(places.values()).most_common(1)[0][0]
    silent = [rank for rank in range(world) if rank not in reports]
    late = [rank for rank, report in reports.items() if report["late_s"] > _LATE_S]
    different = [rank for rank, place in places.items() if place != usual and rank not in late]
    lines = ["# The run did not advance", ""]
    lines += [f"- rank {rank}: **no answer** (stopped, killed, or its node is gone)" for rank in silent]
    for rank in late:
        host, seconds = reports[rank]["host"], reports[rank]["late_s"]
        lines += [
            f"- rank {rank}: **no answer** in time, but {seconds} s late (it was stopped, or {host} is overloaded)"
        ]
    lines += [f"- rank {rank} on {reports[rank]['host']}: **elsewhere**: {places[rank]}" for rank in different]
    count = sum(place == usual for rank, place in places.items() if rank not in late)
    lines += [f"- {count} of {world} ranks wait at: {usual}", ""]
    lines += [*_collectives(reports), ""]
    first = [*late, *different]
    order = [*first, *(rank for rank in reports if rank not in first)]
    for rank in order[: max(_SHOWN, len(first) + 2)]:
        lines += _section(rank, reports[rank])
    if len(order) > _SHOWN:
        lines += [f"The others are in {logs}/hang_rank_N.json."]
    page = logs / PAGE
    page.write_text("\n".join(lines))
    return page


def suspects(page: Path) -> str:
    """The first lines of a page in one sentence."""
    named = [line[2:].replace("*", "") for line in page.read_text().splitlines() if line.startswith("- ")]
    more = [f"and {len(named) - _NAMED} more"] if len(named) > _NAMED else []
    return f"the run hung: {'; '.join([*named[:_NAMED], *more])}; see {page}"


def _read(file: Path) -> dict[str, Any]:
    try:
        report: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return report


def _place(report: dict[str, Any]) -> str:
    """What the main thread was doing: work, step, and the frame of this package that is nearest to where it stands."""
    frames = [
        line.strip() for line in report["stacks"].split("(most recent call first):")[-1].splitlines() if line.strip()
    ]
    top = frames[0] if frames else "?"
    own = next((frame for frame in frames if "/megabiomed/" in frame), top)
    return f"{report['what']}, step {report['step']}: {top} < {own}"


def _collectives(reports: dict[int, dict[str, Any]]) -> Iterator[str]:
    """For each process group, which ranks are behind: all ranks of a group count its collectives in the same way."""
    newest: dict[str, dict[int, dict[str, Any]]] = {}
    for rank, report in reports.items():
        for entry in report["collectives"] or ():
            if entry["kind"] == "collective":
                newest.setdefault(entry["group"], {})[rank] = entry
    for group, entries in newest.items():
        last = max(entry["number"] for entry in entries.values())
        ahead = [rank for rank, entry in entries.items() if entry["number"] == last]
        waiting = [rank for rank in ahead if not entries[rank]["done"]]
        late = {rank: entry for rank, entry in entries.items() if entry["number"] < last}
        if waiting:
            yield f"* group {group}: ranks {_list(waiting)} wait in {say(entries[waiting[0]])}"
        for rank, entry in late.items():
            yield f"* group {group}: **rank {rank} is behind**: its last is {say(entry)}"


def say(entry: dict[str, Any]) -> str:
    """`all_reduce 57 of [8, 4] Float`: a collective as `flight_recorder.last_collectives` describes it."""
    return f"{entry['name']} {entry['number']} of {entry['shape']}"


def _section(rank: int, report: dict[str, Any]) -> list[str]:
    """Everything about one rank."""
    lines = [f"## rank {rank}, {report['host']}: {report['what']}, step {report['step']}", ""]
    lines += [
        f"run: {report['place']}",
        f"samples: {report['samples']}",
        "",
        "```",
        report["stacks"].rstrip(),
        "```",
        "",
    ]
    if not report["collectives"]:
        return [*lines, "last collectives: torch's flight recorder did not answer", ""]
    lines += ["last collectives (torch's flight recorder), the newest last:", ""]
    for entry in report["collectives"]:
        lines.append(f"    {'done' if entry['done'] else 'WAITS'}  {entry['group']}: {say(entry)}")
    return [*lines, ""]


def _list(ranks: list[int]) -> str:
    text = ", ".join(map(str, ranks[:_NAMED]))
    return text + (f" and {len(ranks) - _NAMED} more" if len(ranks) > _NAMED else "")
