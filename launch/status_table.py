"""The status of runs for people: a wide table, or lines of 80 columns; which of them are asked for."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from pathlib import Path
from time import time as now
from typing import Any

from megabiomed.ground.figures import shown
from megabiomed.ground.json_lines import seconds_of
from megabiomed.launch import scheduler
from megabiomed.launch.stage_in.report import shown as staged
from megabiomed.launch.status import is_figure

COLUMNS = (
    *(
        "run",
        "stage",
        "job",
        "state",
        "starts",
        "failures",
        "time",
        "used",
        "step",
        "loss",
        "tokens/s",
        "mfu",
        "saved",
        "eta",
    ),
    *("nodes", "last"),
)
WIDTH = 80
_CLAUSE = 240
"""Characters of the last decision that are shown; the rest is in the log of the batch script."""


class Group(StrEnum):
    """Which runs a table shows."""

    RUNNING = "running"
    PENDING = "pending"
    ENDED = "ended"
    FAILED = "failed"


def belongs(status: dict[str, Any], group: Group) -> bool:
    """Whether a run is asked for; `ended` has finished and failed ones. Nobody knows it of one whose scheduler is away."""
    state = status["state"].split(" ")[0]
    if state == "scheduler":
        return True
    if state in scheduler.STARTED:
        return group == Group.RUNNING
    if state in scheduler.ACTIVE:
        return group == Group.PENDING
    return group == Group.ENDED or (group == Group.FAILED and state not in ("FINISHED", "COMPLETED"))


def table(found: list[dict[str, Any]], console: Any) -> Any:
    """A table where the terminal is wide enough for one; otherwise some lines per stage."""
    from rich.text import Text

    from megabiomed.ground.tables import bordered, fits

    made = bordered(COLUMNS, map(row, found))
    if fits(console, made):
        return made
    return Text("\n".join(line for item in found for line in lines(item, max(console.width, 40))), overflow="fold")


def row(status: dict[str, Any]) -> tuple[str, ...]:
    """A status as cells of the table."""
    state = status["state"] + (f" ({status['reason']})" if status["reason"] else "")
    step = f"{status['step']:,}/{status['total_steps']:,}" if status["step"] and status["total_steps"] else None
    speed = f"{status['tokens_per_s']:,.0f}" if status["tokens_per_s"] else None
    age = (
        f"step {status['checkpoint_step']:,}, {_ago(status['checkpoint_age_s'])} ago"
        if status["checkpoint_step"]
        else None
    )
    cells = (
        Path(status["run"]).name,
        status["stage"],
        status["job"],
        state,
        str(status["starts"]),
        f"{status['failures']} of {status['max_failures']}" if status["max_failures"] else None,
        f"{status['elapsed']} of {status['limit'] or '?'}" if status["elapsed"] else status["limit"],
        _used(status),
        step,
        shown(status["loss"], ".4f") if status["loss"] is not None else None,
        speed,
        f"{status['mfu']:.1%}" if status["mfu"] is not None else None,
        age,
        _ago(status["eta_s"]) if status["eta_s"] is not None else None,
        status["nodes"],
        _last(status),
    )
    return tuple(cell or "-" for cell in cells)


def _used(status: dict[str, Any]) -> str | None:
    """What all starts took; nodes where they have no GPUs."""
    hours, unit = (status["gpu_hours"], "GPU-h") if status["gpu_hours"] else (status["node_hours"], "node-h")
    return f"{hours:,.1f} {unit}" if hours else None


def _last(status: dict[str, Any]) -> str | None:
    """The last decision; before it what keeps the job from ever starting and slow ranks, after it the nodes that it avoids."""
    avoids = f"without {status['excluded']}" if status["excluded"] and not status["blocked"] else None
    decision = first_clause(status["last"], status["run"]) if status["last"] else None
    if decision and (age := _since(status["last_time"])):
        decision = f"{decision} ({age} ago)"
    parts = (
        *(status["blocked"], _shrunk(status), _slow(status), _gpus(status), _staged(status)),
        *(decision, _recovery(status), avoids),
    )
    return "; ".join(filter(None, parts)) or None


def _recovery(status: dict[str, Any]) -> str | None:
    """How long the run needed for the next step after its last failure; nothing when it failed again, or ended otherwise."""
    found = status["recoveries"][-1] if status.get("recoveries") else {}
    last = status["endings"][-1] if status["endings"] else {}
    if not found or found.get("after") != last.get("incarnation"):
        return None
    return f"recovered in {found.get('total_s')} s ({found.get('imports_s')} s of it imports)"


def _shrunk(status: dict[str, Any]) -> str | None:
    """With how many of its nodes a run goes on, or waits for the others, and since when it has had too few."""
    found = status["shrunk"]
    if found is None or status["state"] == "FINISHED":
        return None
    without = f", without {found['without']}" if found["without"] else ""
    age = f" for {age}" if (age := _since(found["short_since"])) else ""
    if found["waits"]:
        return f"waits for all {found['asked']} nodes{age}{without}"
    return f"{found['used']} of {found['asked']} nodes{age}{without}"


def _staged(status: dict[str, Any]) -> str | None:
    """Which nodes of a start that is under way read their own storage."""
    found = status.get("staged")
    return staged(found) if found is not None and status["state"].split(" ")[0] in scheduler.STARTED else None


def _slow(status: dict[str, Any]) -> str | None:
    """The slow ranks of a start that is under way, with their nodes and by how much."""
    found = [
        f"rank {slow['rank']} on {slow['host']}" + (f" {slow['factor']:.3g} x" if is_figure(slow["factor"]) else "")
        for slow in status["slow"]
    ]
    return f"slow: {', '.join(found)}" if found else None


def _gpus(status: dict[str, Any]) -> str | None:
    """What is wrong with GPUs, the worst first."""
    found = sorted(status["gpu_health"], key=lambda each: not each["bad"])
    places = [each["host"] if each["gpu"] is None else f"{each['host']} GPU {each['gpu']}" for each in found[:3]]
    said = [f"{place} {each['text']}" for place, each in zip(places, found)]
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"gpu: {', '.join(said)}{more}" if said else None


def first_clause(text: str, run: str) -> str:
    """The beginning of a long reason, and where to read on."""
    if len(text) <= _CLAUSE:
        return text
    cut = text.rfind("; ", 0, _CLAUSE)
    # Half of it at least: an error is worth more than a whole clause.
    kept = text[:cut] if cut > _CLAUSE // 2 else text[:_CLAUSE].rpartition(" ")[0] or text[:_CLAUSE]
    page = text.rpartition("; see ")[2]
    where = page if page.endswith(".md") else f"megabiomed logs {run} --job"
    return f"{kept} ...; see {where}"


def lines(status: dict[str, Any], width: int = WIDTH) -> list[str]:
    """A status for a narrow terminal."""
    cell = dict(zip(COLUMNS, row(status)))
    paragraphs = (
        f"{cell['run']} {cell['stage']}: {cell['state']}, job {cell['job']}",
        f"  starts {cell['starts']}  failures {cell['failures']}  time {cell['time']}  eta {cell['eta']}  used {cell['used']}",
        f"  step {cell['step']}  loss {cell['loss']}  tokens/s {cell['tokens/s']}  mfu {cell['mfu']}",
        f"  saved {cell['saved']}  nodes {cell['nodes']}",
        f"  last: {cell['last']}",
    )
    return [
        line
        for text in paragraphs
        for line in textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    ]


def _since(time: str | None) -> str | None:
    """How long ago a time of the records was."""
    seconds = seconds_of(time) if time else None
    return None if seconds is None else _ago(max(0.0, now() - seconds))


def _ago(seconds: float) -> str:
    minutes, _ = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    return f"{hours}h {minutes:02d}m" if hours else (f"{minutes} min" if minutes else f"{int(seconds)} s")
