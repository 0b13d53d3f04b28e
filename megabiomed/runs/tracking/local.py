"""metrics.jsonl and events.jsonl in the run folder: always written, one JSON object per line."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import CLAIM, Fence
from megabiomed.ground.figures import stored
from megabiomed.ground.files import make_writable
from megabiomed.ground.secrets import masked_values


class LocalFiles:
    """What cannot be switched off: commands and schedulers read these files, and trackers are told what they say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fence: Fence | None = None
        self._kept: dict[str, str] = {}
        make_writable(folder)

    def hold(self, fence: Fence | None) -> None:
        """From now on events carry the number of this claim."""
        self._fence = fence

    def metrics(self, values: dict[str, float], step: int) -> None:
        """Figures after a step, by names like `train/loss`; what is not finite is kept as these words."""
        kept = {name: stored(value) for name, value in values.items()}
        self._append("metrics.jsonl", _line({"step": step, "time": _now("milliseconds"), **kept}))

    def event(self, kind: str, values: dict[str, Any]) -> None:
        """Something happened."""
        claim = {CLAIM: self._fence.number} if self._fence is not None else {}
        self._append("events.jsonl", _line({"time": _now("seconds"), "event": kind, **masked_values(values), **claim}))

    def gradients(self, record: dict[str, Any]) -> None:
        """Norm of the gradient of each tensor in a step."""
        claim = {CLAIM: self._fence.number} if self._fence is not None else {}
        self._append("gradients.jsonl", _line({"time": _now("seconds"), **record, **claim}))

    def finish(self) -> None:
        """The start is over: what a full disk refused is tried once more."""
        for name in list(self._kept):
            self._append(name, "")

    def _append(self, name: str, text: str) -> None:
        text = self._kept.pop(name, "") + text
        try:
            _write(self._folder / name, text.encode())
        except OSError as error:
            # A disk that is full for a minute must not end a training, and its lines come later.
            self._kept[name] = text
            with suppress(OSError):  # the rank's log may be on the same disk
                print(
                    f"warning: {self._folder / name} cannot be written: {error.strerror}", file=sys.stderr, flush=True
                )


def _write(path: Path, data: bytes) -> None:
    """Append all of it, or nothing."""
    # Opened each time: a crash cuts at most one line, and readers leave that one out. Without a buffer, which would be
    # written once more when the file is closed.
    with path.open("ab", buffering=0) as file:
        whole = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(whole)
            raise


def _now(precision: str) -> str:
    return datetime.now(UTC).isoformat(timespec=precision)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
