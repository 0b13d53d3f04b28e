"""Questions on molecules and proteins from the published layouts.

Read by content, not by file name: OpenBioMed's list of {protein_accession | smiles, question, answer} with sequences.json
beside, its v2 list of {smiles, sequence, question, answer}, its {smiles: [[question, answer]]}, and ChEBI-20's table.
Raw releases are read in records_raw.py.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import DataError

DESCRIBE = "Please describe this molecule."


@dataclass(frozen=True)
class QaRecord:
    """One question; `ident` names it in messages."""

    ident: str
    question: str
    answer: str
    molecules: list[str] = field(default_factory=list)
    proteins: list[str] = field(default_factory=list)


def read_records(path: Path) -> Iterator[QaRecord]:
    """Records of one file.

    Raises:
        DataError: the file is missing or has none of the known layouts.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is not there", do="give .json, .jsonl, ChEBI-20's .txt, Swiss-Prot's .dat, .sdf or .csv"
        )
    if path.suffix in (".txt", ".tsv"):
        return _chebi20(path)
    raw = _raw_reader(path.name.removesuffix(".gz"))
    if raw is not None:
        return raw(path)
    try:
        held = _lines(path) if path.suffix == ".jsonl" else json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is no readable JSON", got=str(error)) from None
    return _by_smiles(path, held) if isinstance(held, dict) else _list(path, held)


def _raw_reader(name: str) -> Callable[[Path], Iterator[QaRecord]] | None:
    from megabiomed.samples.multimodal import records_raw

    readers = {".dat": records_raw.read_swissprot, ".csv": records_raw.read_csv, ".sdf": records_raw.read_sdf}
    return readers.get(Path(name).suffix)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _chebi20(path: Path) -> Iterator[QaRecord]:
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"CID", "SMILES", "description"} <= set(rows.fieldnames or []):
            raise DataError(f"{path} is no ChEBI-20 table", got=rows.fieldnames, expected="CID, SMILES, description")
        for row in rows:
            yield QaRecord(f"{path.name}:{row['CID']}", DESCRIBE, row["description"], [row["SMILES"]])


def _by_smiles(path: Path, held: dict[str, Any]) -> Iterator[QaRecord]:
    for number, (smiles, asked) in enumerate(held.items()):
        for turn, (question, answer) in enumerate(asked):
            yield QaRecord(f"{path.name}:{number}.{turn}", question, answer, [smiles])


def _list(path: Path, held: list[Any]) -> Iterator[QaRecord]:
    sequences: dict[str, str] | None = None
    for number, entry in enumerate(held):
        ident = f"{path.name}:{number}"
        if not isinstance(entry, dict) or "question" not in entry or "answer" not in entry:
            raise DataError(f"{ident} is no question", got=str(entry)[:80], expected="question and answer")
        proteins = _several(entry.get("sequence"))
        if "protein_accession" in entry:
            sequences = _sequences(path) if sequences is None else sequences
            proteins = [sequences.get(name, "") for name in _several(entry["protein_accession"])]
        yield QaRecord(ident, str(entry["question"]), str(entry["answer"]), _several(entry.get("smiles")), proteins)


def _sequences(path: Path) -> dict[str, str]:
    file = path.with_name("sequences.json")
    if not file.is_file():
        raise DataError(f"{path} names proteins by accession", expected=f"{file} with their sequences")
    found: dict[str, str] = json.loads(file.read_text())
    return found


def _several(value: Any) -> list[str]:
    if value in (None, "", []):
        return []
    return [str(item) for item in value if item not in (None, "")] if isinstance(value, list) else [str(value)]
