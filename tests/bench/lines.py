"""How a worker of `make bench-gpu` tells what it does: a JSON line when a unit begins, for every row, and when it ends."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class Lines:
    """Appends to a file that the benchmark reads while the worker goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def row(self, **values: Any) -> None:
        """A result; `section` moves it to another section than the worker's."""
        with self._path.open("a") as stream:
            stream.write(json.dumps(values) + "\n")

    def beside(self, name: str) -> Path:
        """A file for something else, in the same folder."""
        return self._path.with_name(name)

    def each(self, units: Sequence[str], work: Callable[[str], None]) -> None:
        """Work on units one after another; one that raises is a row, and the next one begins."""
        for unit in units:
            self.row(begin=unit)
            try:
                work(unit)
            except Exception as error:
                traceback.print_exc()
                said = (str(error).strip().splitlines() or [""])[0][:200]
                self.row(candidate=unit, result=f"failed: {type(error).__name__}: {said}")
            self.row(end=unit)
