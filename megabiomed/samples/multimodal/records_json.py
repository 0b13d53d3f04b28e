"""Published JSON layouts of OpenBioMed, read by content, and ChEBI-20's table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.records import MultimodalQuestion, RecordLayout

DESCRIBE = "Please describe this molecule."


def read_openbiomed(path: Path) -> Iterator[MultimodalQuestion]:
    """OpenBioMed's list of {protein_accession | smiles, question, answer} with sequences.json beside, its v2 list of
    {smiles, sequence, question, answer}, and its {smiles: [[question, answer]]}; .json or .jsonl."""
    try:
        held = _lines(path) if path.suffix == ".jsonl" else json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not readable JSON", got=str(error)) from None
    return _by_smiles(path, held) if isinstance(held, dict) else _list(path, held)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _by_smiles(path: Path, held: dict[str, Any]) -> Iterator[MultimodalQuestion]:
    for number, (smiles, asked) in enumerate(held.items()):
        for turn, (question, answer) in enumerate(asked):
            yield MultimodalQuestion(f"{path.name}:{number}.{turn}", question, answer, {"molecule": [smiles]})


def _list(path: Path, held: list[Any]) -> Iterator[MultimodalQuestion]:
    sequences: dict[str, str] | None = None
    for number, entry in enumerate(held):
        ident = f"{path.name}:{number}"
        if not isinstance(entry, dict) or "question" not in entry or "answer" not in entry:
            raise DataError(f"{ident} is not a question", got=str(entry)[:80], expected="question and answer")
        proteins = _several(entry.get("sequence"))
        if "protein_accession" in entry:
            sequences = _sequences(path) if sequences is None else sequences
            proteins = [sequences.get(name, "") for name in _several(entry["protein_accession"])]
        items = {"molecule": _several(entry.get("smiles")), "protein": proteins}
        given = {name: texts for name, texts in items.items() if texts}
        yield MultimodalQuestion(ident, str(entry["question"]), str(entry["answer"]), given)


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


def read_chebi20(path: Path) -> Iterator[MultimodalQuestion]:
    """ChEBI-20's table: CID, SMILES, description, separated by tabs."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if not {"CID", "SMILES", "description"} <= set(rows.fieldnames or []):
            raise DataError(f"{path} is not a ChEBI-20 table", got=rows.fieldnames, expected="CID, SMILES, description")
        for row in rows:
            yield MultimodalQuestion(
                f"{path.name}:{row['CID']}", DESCRIBE, row["description"], {"molecule": [row["SMILES"]]}
            )


OPENBIOMED = RecordLayout(read_openbiomed, (".json", ".jsonl"))
CHEBI20 = RecordLayout(read_chebi20, (".txt", ".tsv"))
