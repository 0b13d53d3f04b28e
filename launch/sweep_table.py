"""`megabiomed sweep`: the runs of a sweep side by side, the best first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.fence import of_owners
from megabiomed.ground.figures import shown
from megabiomed.ground.json_lines import read_objects
from megabiomed.launch import records, sweep
from megabiomed.launch.status import is_figure, statuses, submitted_below

_VALIDATION = "validation/loss"


def compared(folder: Path) -> list[dict[str, Any]]:
    """A row for each run: values, state, steps, last loss and best validation loss; the best first, then by the last loss.

    Of a run that is several jobs, the figures are those of the last one that began.
    """
    entries = sweep.read(folder)
    runs = [_jobs(folder / entry["label"]) for entry in entries]
    found = {str(status["run"]): status for status in statuses([run for jobs in runs for run in jobs])}
    rows = [_row(folder, entry, [found[str(run)] for run in jobs]) for entry, jobs in zip(entries, runs)]
    return sorted(rows, key=lambda row: (_rank(row["validation_loss"]), _rank(row["loss"]), row["run"]))


def _jobs(run: Path) -> list[Path]:
    return [run] if records.read_job(run) else submitted_below(run)


def _row(folder: Path, entry: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    begun = [job for job in jobs if job["starts"]]
    last: Mapping[str, Any] = begun[-1] if begun else {}
    open_jobs = [job for job in jobs if job["state"] != "FINISHED"]
    state = open_jobs[0]["state"] if open_jobs else "FINISHED" if jobs else "not submitted"
    best, step = best_validation(Path(last["run"])) if last else (None, None)
    return {
        "run": str(folder / entry["label"]), "values": dict(entry["values"]), "state": state,
        "job": open_jobs[0]["job"] if open_jobs else None,
        "step": last.get("step"), "total_steps": last.get("total_steps"), "loss": last.get("loss"),
        "validation_loss": best, "validation_step": step, "gpu_hours": sum(job["gpu_hours"] for job in jobs),
    }  # fmt: skip


def best_validation(run: Path) -> tuple[float | None, int | None]:
    """The lowest validation loss of a run and its step; None where it has none."""
    found = [
        (float(record[_VALIDATION]), int(record["step"]))
        for record in of_owners(read_objects(run / "metrics.jsonl"))
        if is_figure(record.get(_VALIDATION)) and isinstance(record.get("step"), int)
    ]
    return min(found, default=(None, None))


def _rank(value: Any) -> float:
    """For sorting: what is not known, or not finite, comes last."""
    return float(value) if is_figure(value) else math.inf


def columns(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of the columns: the keys of the sweep first."""
    return (*_keys(rows), "state", "step", "loss", "validation loss", "at step", "run")


def cells(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The table without its head."""
    return [
        (
            *(str(row["values"].get(key, "-")) for key in _keys(rows)), str(row["state"]),
            f"{row['step']:,}/{row['total_steps']:,}" if row["step"] and row["total_steps"] else "-",
            shown(row["loss"], ".4f") if row["loss"] is not None else "-",
            shown(row["validation_loss"], ".4f") if row["validation_loss"] is not None else "-",
            f"{row['validation_step']:,}" if row["validation_step"] is not None else "-", Path(row["run"]).name,
        )
        for row in rows
    ]  # fmt: skip


def _keys(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row["values"]))
