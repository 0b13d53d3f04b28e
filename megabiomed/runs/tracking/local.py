"""metrics.jsonl and events.jsonl in the run folder: always written, one JSON object per line."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import CLAIM, Fence
from megabiomed.config import RunConfig
from megabiomed.ground.figures import stored
from megabiomed.ground.files import make_writable
from megabiomed.ground.secrets import masked_values


class LocalFiles:
    """A tracker that cannot be switched off: commands and schedulers read its files."""

    name = "the run folder"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fence: Fence | None = None
        make_writable(folder)

    def hold(self, fence: Fence | None) -> None:
        """From now on events carry the number of this claim."""
        self._fence = fence

    def start(self, config: RunConfig) -> None:
        """See `Tracker`."""

    def metrics(self, values: dict[str, float], step: int) -> None:
        """See `Tracker`; what is not finite is kept as these words."""
        self._append("metrics.jsonl", {"step": step, **{name: stored(value) for name, value in values.items()}})

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """See `Tracker`."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        claim = {CLAIM: self._fence.number} if self._fence is not None else {}
        self._append("events.jsonl", {"time": now, "event": kind, **masked_values(values), **claim})

    def finish(self, status: str) -> None:
        """See `Tracker`."""

    def _append(self, name: str, record: dict[str, Any]) -> None:
        # Opened for each line: a crash cuts at most one, and readers leave that one out.
        with (self._folder / name).open("a") as file:
            file.write(json.dumps(record) + "\n")
