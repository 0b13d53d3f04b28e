"""Files of JSON lines that a run appends to: a crash or a full disk can leave a line unfinished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any


def read_objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, the oldest first; lines that hold none are left out, and a missing file has none."""
    for line in file.read_text(errors="replace").splitlines() if file.is_file() else []:
        if (held := parsed_object(line)) is not None:
            yield held


def parsed_object(line: bytes | str) -> dict[str, Any] | None:
    """The JSON object that a line holds; None where it holds none, or nests deeper than can be read."""
    try:
        held = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def seconds_of(text: Any) -> float | None:
    """Seconds since 1970 of a time in ISO 8601, as lines of a run have it; None where it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None
