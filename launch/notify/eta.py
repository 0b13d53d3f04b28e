"""Whether the expected end of a run slips: it is noted once it is known, and again when it has become much later."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.ground.json_lines import read_objects, seconds_of
from megabiomed.launch import records
from megabiomed.launch.status import is_figure, remaining_s

SLIPS = "eta.jsonl"
"""In slurm/: expected ends, the first one and each that was much later than the one before it."""
SHARE = 0.1
"""Of the time that was left when the end was noted, which it may slip; half an hour at least."""
LEAST_S = 1800.0
_SETTLED_STEPS = 20
"""Steps of a start before its speed says anything."""


def note_slip(run: Path, now: float) -> None:
    """Note the expected end of a run if it is the first one, or much later than the one noted last.

    Pauses in the queue, failures and steps that are done again make it later, as slower steps do.

    Args:
        now: seconds since 1970.
    """
    left, steps = remaining_s(run)
    if left is None:
        return
    noted = [each for each in read_objects(run / records.SLURM / SLIPS) if _is_of(run, each)]
    end, slipped = now + left, None
    if noted:
        slipped = end - float(seconds_of(noted[-1].get("end")) or end)
        if slipped < max(LEAST_S, SHARE * float(noted[-1]["left_s"])):
            return
    elif steps < _SETTLED_STEPS:
        return
    line: dict[str, Any] = {"time": _text(now), "end": _text(end), "left_s": round(left)}
    line |= {"slipped_s": round(slipped)} if slipped is not None else {}
    records.add_line(run / records.SLURM / SLIPS, line)


def _is_of(run: Path, line: dict[str, Any]) -> bool:
    """Whether a line was written since the last submission: a longer run that is submitted again has another end."""
    job = records.read_job(run)
    since = seconds_of(job.get("submitted") or job.get("prepared")) or 0.0
    return is_figure(line.get("left_s")) and (seconds_of(line.get("time")) or 0.0) >= since


def _text(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def later(seconds: float) -> str:
    """`3 h 20 min`, `2 d 4 h`."""
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days} d {hours} h" if days else f"{hours} h {minutes % 60} min" if hours else f"{minutes} min"
