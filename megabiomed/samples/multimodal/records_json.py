"""Published JSON layouts of OpenBioMed, read by content, and ChEBI-20's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from megabiomed.corpus.tables import TABLES
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import read_json
from megabiomed.samples.documents import read_entries, read_table
from megabiomed.samples.fields import label_of, optional_text, text_of, texts_of
from megabiomed.samples.multimodal.records import MultimodalQuestion, RecordLayout
from megabiomed.samples.rejects import Reject, Unusable

DESCRIBE = "Please describe this molecule."
_ITEMS = ("smiles", "sequence", "protein_accession")


class _Sequences:
    """Sequences of proteins that are named by accession, from sequences.json beside the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def _held(self) -> dict[str, Any]:
        file = self._path.with_name("sequences.json")
        if not file.is_file():
            raise DataError(f"{self._path} names proteins by accession", expected=f"{file} with their sequences")
        found = read_json(file)
        if not isinstance(found, dict):
            raise DataError(f"{file} is no object of accession to sequence", got=type(found).__name__)
        return found

    def of(self, accession: str) -> str:
        """Raises `Unusable` for an accession that is not in the file, or has no sequence there."""
        if accession not in self._held:
            raise Unusable("unknown protein accession", accession)
        return text_of(self._held[accession], "protein sequence")


def read_openbiomed(path: Path) -> Iterator[MultimodalQuestion | Reject]:
    """OpenBioMed's list of {protein_accession | smiles, question, answer} with sequences.json beside, its v2 list of
    {smiles, sequence, question, answer}, and its {smiles: [[question, answer]]}; .json, .jsonl or .parquet."""
    sequences = _Sequences(path)
    for number, (key, source, value) in enumerate(read_entries(path, lambda row: "question" in row)):
        if isinstance(value, list) and key:
            for turn, asked in enumerate(value):
                yield _asked(f"{path.name}:{number}.{turn}", key, asked)
        else:
            yield _entry(source, value, sequences)


def _asked(ident: str, smiles: str, asked: Any) -> MultimodalQuestion | Reject:
    try:
        if not isinstance(asked, list) or len(asked) != 2:
            raise Unusable("no pair of question and answer", asked)
        question, answer = asked
        return MultimodalQuestion(
            ident,
            text_of(question, "question"),
            optional_text(answer, "answer"),
            {"molecule": [text_of(smiles, "molecule")]},
        )
    except Unusable as error:
        return error.reject("", ident)


def _entry(ident: str, entry: Any, sequences: _Sequences) -> MultimodalQuestion | Reject:
    try:
        if isinstance(entry, Unusable):
            raise entry
        if not isinstance(entry, Mapping):
            raise Unusable("no question", entry)
        question, answer = text_of(entry.get("question"), "question"), optional_text(entry.get("answer"), "answer")
        proteins = texts_of(entry.get("sequence"), "protein")
        if "protein_accession" in entry:
            proteins = [sequences.of(name) for name in texts_of(entry["protein_accession"], "protein accession")]
        items = {"molecule": texts_of(entry.get("smiles"), "molecule"), "protein": proteins}
        given = {name: texts for name, texts in items.items() if texts}
        # The keys are there and hold nothing: an item was lost, this is not a question on text alone.
        if not given and any(key in entry for key in _ITEMS):
            raise Unusable("no molecule or protein", {key: entry[key] for key in _ITEMS if key in entry})
        return MultimodalQuestion(ident, question, answer, given)
    except Unusable as error:
        return error.reject("", ident)


def read_chebi20(path: Path) -> Iterator[MultimodalQuestion | Reject]:
    """ChEBI-20's table: CID, SMILES, description, separated by tabs."""
    # Quote marks in descriptions are text, not quotes of CSV.
    for line, row in read_table(path, ("cid", "smiles", "description"), delimiter="\t", quoted=False):
        yield described(path, line, row)


def described(
    path: Path, line: int, row: Mapping[str, str] | Unusable, several: bool = False
) -> MultimodalQuestion | Reject:  # fmt: skip
    """The question on a molecule in a row of a table; its id is the CID, or the line where there is none.

    Args:
        several: whether a CID may have several rows, so that the id holds the line too.
    """
    if isinstance(row, Unusable):
        return row.reject("", f"{path.name}:{line}")
    cid = label_of(row.get("cid"))
    ident = f"{path.name}:{cid}.{line}" if cid and several else f"{path.name}:{cid or line}"
    try:
        items = {"molecule": [text_of(row["smiles"], "molecule")]}
        return MultimodalQuestion(ident, DESCRIBE, row["description"], items)
    except Unusable as error:
        return error.reject("", ident)


OPENBIOMED = RecordLayout(read_openbiomed, (".json", ".jsonl", *TABLES))
CHEBI20 = RecordLayout(read_chebi20, (".txt", ".tsv"))
