"""From files of questions to splits on disk."""

from __future__ import annotations

from itertools import chain, islice
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.records import read_records
from megabiomed.samples.multimodal.splits import leakage, split_records
from megabiomed.samples.multimodal.store import BuildSettings, build_split
from megabiomed.tokenizer.tokenizer import Tokenizer


def build_dataset(
    files: list[Path], output: Path, tokenizer: Path, how: str, settings: BuildSettings, limit: int | None, seed: int
) -> list[str]:
    """Write train/, validation/ and test/ (or all/ under `none`); returns lines for the operator."""
    records = list(islice(chain.from_iterable(read_records(file) for file in files), limit))
    if not records:
        raise DataError("the files hold no question", got=", ".join(map(str, files)))
    split = {"all": records} if how == "none" else split_records(records, how, seed)  # type: ignore[arg-type]
    made, lines = Tokenizer(tokenizer), []
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("featurise", total=len(records))
        for name, part in split.items():
            manifest = build_split(part, output / name, made, settings, lambda: progress.advance(task))
            counts = ", ".join(f"{manifest[key]} {key}" for key in ("records", "molecules", "proteins"))
            lines.append(f"{name}: {counts}, skipped {manifest['left_out'] or 'none'}, changed {manifest['changed']}")
    if how != "none":
        found = leakage(split)
        lines.append("leakage of held-out records: " + ", ".join(f"{key} {value:.1%}" for key, value in found.items()))
    return lines
