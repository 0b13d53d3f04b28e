"""The folder of an evaluation: every prediction as it is made, then results.json, results.html and the table.

settings.json        what was asked and of which model; a folder goes on only for the same question
predictions_T.jsonl  one line an item of task T in the order of the file, appended and synchronised round by round
rejects_T.jsonl      what was not asked, with reasons
results.json         written last
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megabiomed.evaluate.metrics import Row
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import make_writable, read_json, write_json
from megabiomed.ground.json_lines import parsed_object

SETTINGS = "settings.json"
RESULTS = "results.json"
PAGE = "results.html"
_EVERY_ROW = {"id": str, "question_sha256": str, "prompt_sha256": str, "correct": bool}
"""Keys of each prediction with their types."""


class ResultFolder:
    """Where predictions go. One process writes; the others only read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, identity: str, settings: dict[str, Any]) -> None:
        """Create the folder, or check that it belongs to the same evaluation.

        Raises:
            DataError: it holds another one.
        """
        make_writable(self.path)
        file = self.path / SETTINGS
        if file.is_file():
            held = read_json(file, dict)
            if held.get("identity") != identity:
                raise DataError(
                    f"{self.path} holds another evaluation",
                    got=f"of {held.get('model')}, other questions, settings or weights",
                    do="give another --output, or remove the folder",
                )
            return
        write_json(file, {"identity": identity, **settings})

    def predictions(self, task: str) -> Path:
        """The file of one task."""
        return self.path / f"predictions_{task}.jsonl"

    def read(self, task: str) -> list[Row]:
        """Predictions that are whole; a line that a kill cut off is not one."""
        file = self.predictions(task)
        if not file.is_file():
            return []
        *lines, _ = file.read_bytes().split(b"\n")
        rows = [parsed_object(line) for line in lines]
        for number, row in enumerate(rows, start=1):
            if row is None or not all(isinstance(row.get(key), kind) for key, kind in _EVERY_ROW.items()):
                raise DataError(
                    f"{file} is damaged", got=f"line {number} is no prediction",
                    do="remove it: the same command predicts again",
                )  # fmt: skip
        return [row for row in rows if row is not None]

    def open_for_append(self, task: str) -> int:
        """Cut off half a line and return the number of whole ones."""
        file = self.predictions(task)
        if not file.is_file():
            return 0
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(file, len(whole))
        return whole.count(b"\n")

    def append(self, task: str, rows: Sequence[Row]) -> None:
        """Add predictions; they are on the disk when this returns."""
        with self.predictions(task).open("ab") as file:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())

    def results(self) -> dict[str, Any]:
        """What the evaluation found.

        Raises:
            DataError: it is not finished, or no evaluation.
        """
        file = self.path / RESULTS
        if not file.is_file():
            unfinished = (self.path / SETTINGS).is_file()
            raise DataError(
                f"{self.path} holds no results", got="an unfinished evaluation" if unfinished else "no evaluation",
                do="give the same `megabiomed evaluate` again: it goes on" if unfinished else "give a result folder",
            )  # fmt: skip
        found = read_json(file, dict)
        tables = [found.get(key) for key in ("tasks", "perplexity")]
        entries = [entry for table in tables if isinstance(table, dict) for entry in table.values()]
        if "model" not in found or not all(isinstance(held, dict) for held in (*tables, *entries)):
            raise DataError(f"{file} is not what `megabiomed evaluate` writes", do="give a result folder")
        return found
