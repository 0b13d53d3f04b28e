"""Results of `make bench-gpu`: one file that every section adds its rows to, and the page made from it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.gpu_goals import goals
from bench.record import table, versions, write
from megabiomed.processes import platform

Rows = list[dict[str, Any]]
KEY = ("section", "case", "candidate")


class Results:
    """Rows of this run beside those of earlier runs of other sections; both files are rewritten after every row.

    A row replaces the one with the same section, case and candidate, and names the run that it comes from: device, commit,
    time and versions. What an earlier run of a section left and this one did not measure goes when the section is finished.

    Args:
        folder: of gpu.json and gpu.md.
    """

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder
        self.run = datetime.now(UTC).isoformat(timespec="seconds")
        before = json.loads((folder / "gpu.json").read_text()) if (folder / "gpu.json").exists() else {}
        self._order: Rows = []
        self.rows: Rows = before.get("results", [])
        self.runs: dict[str, Any] = before.get("runs", {})
        self.runs[self.run] = {"device": platform.describe(), "commit": commit, "versions": versions()}

    def add(self, section: str, row: dict[str, Any]) -> None:
        """Take a row, and write everything so far."""
        row = {"section": section, "case": "", "candidate": "", **row, "run": self.run}
        self._order.append(row)
        same = [n for n, old in enumerate(self.rows) if all(old[key] == row[key] for key in KEY)]
        if same:
            self.rows[same[0]] = row
        else:
            self.rows.append(row)
        self.write()

    def finish(self, section: str) -> None:
        """Drop what an earlier run of a section left."""
        self.rows = [row for row in self.rows if row["section"] != section or row["run"] == self.run]
        self.write()

    def since(self, count: int) -> dict[str, Rows]:
        """By section, the rows that came after so many."""
        found: dict[str, Rows] = {}
        for row in self._order[count:]:
            found.setdefault(row["section"], []).append(_shown(row))
        return found

    @property
    def added(self) -> int:
        """Rows that this run added so far."""
        return len(self._order)

    def write(self) -> None:
        """Both files, each whole or not at all."""
        used = {row["run"] for row in self.rows}
        self.runs = {name: run for name, run in self.runs.items() if name in used}
        record = {"benchmark": "gpu", "runs": self.runs, "results": self.rows}
        write(self.folder / "gpu.json", json.dumps(record, indent=1) + "\n")
        write(self.folder / "gpu.md", "\n\n".join(self._page()) + "\n")

    def _page(self) -> list[str]:
        page = ["# `make bench-gpu`", "Kernels: best of the repeats with the cache flushed before each. Steps: median."]
        for name, run in self.runs.items():
            listed = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
            page.append(f"- {name}: {run['device']}, commit {run['commit']}; {listed}")
        for section in dict.fromkeys(row["section"] for row in self.rows):
            rows = [row for row in self.rows if row["section"] == section]
            measured = ", ".join(sorted({row["run"] for row in rows}))
            page.append(f"## {section}\n\nRun of {measured}.\n\n{table([_shown(row) for row in rows])}")
        page.append(f"## Goals\n\n{table(goals(self.rows))}")
        return page


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("section", "run")}
