"""How far a tracker was told what the files of a run say."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabiomed.ground.json_lines import parsed_object


class Told:
    """Bytes of each file of a run that one tracker was told, kept in the run folder.

    Args:
        run: the run folder.
        kind: name of the tracker in the configuration.
    """

    def __init__(self, run: Path, kind: str) -> None:
        self._run = run
        self._file = run / "tracking" / f"{re.sub('[^A-Za-z0-9]+', '_', kind)}.json"
        held = parsed_object(self._file.read_bytes()) if self._file.is_file() else None
        # A tracker that is new to the run is told everything from the beginning.
        self._bytes = {name: place for name, place in (held or {}).items() if isinstance(place, int) and place >= 0}

    def new(self, name: str) -> Iterator[tuple[dict[str, Any], int]]:
        """The objects of lines that were not told, each with the place behind it; a line that is being written waits."""
        with suppress(FileNotFoundError), (self._run / name).open("rb") as file:
            place = file.seek(self._bytes.get(name, 0))
            for line in file:
                if not line.endswith(b"\n"):
                    return
                place += len(line)
                if (held := parsed_object(line)) is not None:
                    yield held, place

    def left(self, *names: str) -> bool:
        """Whether any of these files holds something that was not told."""
        return any(next(self.new(name), None) is not None for name in names)

    def until(self, name: str, place: int) -> None:
        """Everything before this place was told. A crash may lose it, and then a little is told twice."""
        self._bytes[name] = place
        self._file.parent.mkdir(exist_ok=True)
        written = self._file.with_suffix(".new")
        written.write_text(json.dumps(self._bytes))
        os.replace(written, self._file)
