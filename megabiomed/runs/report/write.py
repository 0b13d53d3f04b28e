"""Writes the report of runs, as a page and as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.uses import RECORD
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import write_atomic
from megabiomed.runs.history import EVENTS
from megabiomed.runs.kinds import part_run, read_run
from megabiomed.runs.report.compare import compare_page, figures_csv
from megabiomed.runs.report.facts import RunFacts, read_facts
from megabiomed.runs.report.page import run_page


def write_report(paths: Sequence[Path], output: Path, table: Path | None = None) -> list[Path]:
    """Write the page about one run, or that which compares several; returns the files.

    Args:
        table: CSV to write as well.

    Raises:
        DataError: a folder holds no run that was started.
    """
    runs = [facts_of(path) for path in paths]
    written = {output: run_page(runs[0]) if len(runs) == 1 else compare_page(runs)}
    if table is not None:
        written[table] = figures_csv(runs)
    for file, text in written.items():
        write_atomic(file, text)
    return list(written)


def facts_of(path: Path) -> RunFacts:
    """The facts of the run at a path, or of a stage of one, after the configuration in its folder.

    Raises:
        DataError: it holds no run that was started.
    """
    found = locate(path).expect(RECORD)
    folder = found.run
    if folder is None or not (folder / EVENTS).is_file():
        raise DataError(f"{path} holds no run that was started", do="give the folder of a run, or of a stage")
    whole = folder if (folder / "config.yaml").is_file() else folder.parent
    config = read_run(str(whole / "config.yaml"), [f"run_dir={whole}"])
    return read_facts(folder, part_run(config, folder.name if whole != folder else None))
