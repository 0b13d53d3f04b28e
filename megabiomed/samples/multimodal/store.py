"""One split on disk: tokenized questions and featurised molecules and proteins as Arrow files, with a manifest.

split/ records.arrow molecules.arrow proteins.arrow skipped.jsonl tokenizer.model manifest.json (written last)
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from megabiomed.data.arrow import flat_lists, read_table, write_table
from megabiomed.encoders.esm2.alphabet import Protein, ProteinError, encode
from megabiomed.encoders.gin.featurise import FEATURISER_VERSION, Molecule, MoleculeError, Salts, featurise
from megabiomed.encoders.placement import MODALITIES
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import read_json, sha256_file, write_json
from megabiomed.samples.multimodal.batch import Features
from megabiomed.samples.multimodal.prompts import find_template, pieces, render
from megabiomed.samples.multimodal.records import QaRecord
from megabiomed.tokenizer.tokenizer import Tokenizer

MANIFEST = "manifest.json"
_TABLES = ("records", "molecules", "proteins")
RECORD_FIELDS: dict[str, Any] = {
    "ident": pa.string(), "question": pa.string(), "answer": pa.string(), "ids": pa.list_(pa.int32()),
    "answer_start": pa.int32(), "kinds": pa.list_(pa.int8()), "rows": pa.list_(pa.int32()), "items": pa.list_(pa.int32()),
}  # fmt: skip
MOLECULE_FIELDS: dict[str, Any] = {
    "text": pa.string(), "atoms": pa.list_(pa.uint8()), "edges": pa.list_(pa.uint16()), "bonds": pa.list_(pa.uint8()),
}  # fmt: skip
PROTEIN_FIELDS: dict[str, Any] = {"text": pa.string(), "tokens": pa.list_(pa.uint8())}


@dataclass(frozen=True)
class BuildSettings:
    """How records become samples; stored in the manifest."""

    template: str = "biomedgpt"
    max_atoms: int = 256
    max_residues: int = 1022
    salts: Salts = "keep"
    max_answer_tokens: int = 512


@dataclass
class _Columns:
    records: dict[str, list[Any]] = field(default_factory=lambda: {k: [] for k in RECORD_FIELDS})
    molecules: dict[str, list[Any]] = field(default_factory=lambda: {k: [] for k in MOLECULE_FIELDS})
    proteins: dict[str, list[Any]] = field(default_factory=lambda: {k: [] for k in PROTEIN_FIELDS})


class _Builder:
    def __init__(self, tokenizer: Tokenizer, settings: BuildSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.template = find_template(settings.template)
        self.columns = _Columns()
        self.seen: dict[tuple[int, str], tuple[int, int]] = {}
        self.changed: Counter[str] = Counter()

    def add(self, record: QaRecord) -> None:
        """Raises MoleculeError, ProteinError or DataError for a record that cannot be a sample."""
        if not record.answer.strip():
            raise DataError("the answer is empty", got=record.ident)
        prompt, kinds = render(self.template, record.question, record.molecules, record.proteins)
        sources = {"molecule": iter(record.molecules), "protein": iter(record.proteins)}
        items = [(MODALITIES.index(kind), next(sources[kind])) for kind in kinds]
        features = [self._feature(kind, text) for kind, text in items]
        ids = [self.tokenizer.bos_id]
        for number, piece in enumerate(pieces(prompt)):
            ids += self.tokenizer.encode(piece) if piece else []
            ids += [-1 - number] if number < len(items) else []
        answer = self.tokenizer.encode(record.answer.strip())[: self.settings.max_answer_tokens]
        row = {
            "ident": record.ident, "question": record.question, "answer": record.answer.strip(),
            "ids": [*ids, *answer, self.tokenizer.eos_id], "answer_start": len(ids), "kinds": [k for k, _ in items],
            "rows": [rows for _, rows in features], "items": [index for index, _ in features],
        }  # fmt: skip
        for key, value in row.items():
            self.columns.records[key].append(value)

    def _feature(self, kind: int, text: str) -> tuple[int, int]:
        """(row in its table, encoder rows); each molecule and protein is stored once."""
        if (kind, text) not in self.seen:
            rows = self._molecule(text) if kind == 0 else self._protein(text)
            table = self.columns.molecules if kind == 0 else self.columns.proteins
            self.seen[kind, text] = len(table["text"]) - 1, rows
        return self.seen[kind, text]

    def _molecule(self, text: str) -> int:
        made = featurise(text, self.settings.max_atoms, self.settings.salts)
        values = text, made.atoms.ravel(), made.edges.ravel(), made.bonds.ravel()
        for key, value in zip(MOLECULE_FIELDS, values):
            self.columns.molecules[key].append(value)
        self.changed["molecules_with_several_fragments"] += "." in text
        return made.rows

    def _protein(self, text: str) -> int:
        made = encode(text, self.settings.max_residues)
        for key, value in zip(PROTEIN_FIELDS, (text, made.tokens)):
            self.columns.proteins[key].append(value)
        self.changed["proteins_truncated"] += made.truncated
        self.changed["proteins_with_replaced_letters"] += made.changed > 0
        return made.rows


def build_split(
    records: Iterable[QaRecord], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Write one split and return its manifest; records that cannot be samples are counted by reason and listed."""
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder} already holds a dataset", do="choose another folder or delete this one")
    folder.mkdir(parents=True, exist_ok=True)
    builder, skipped = _Builder(tokenizer, settings), []
    for record in records:
        try:
            builder.add(record)
        except DataError as error:
            reason = getattr(error, "reason", "placeholder" if "placeholder" in str(error) else "other")
            kind = {MoleculeError: "molecule ", ProteinError: "protein "}.get(type(error), "")
            skipped.append({"id": record.ident, "reason": kind + reason, "message": str(error)})
        progress()
    (folder / "skipped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in skipped))
    fields = (RECORD_FIELDS, MOLECULE_FIELDS, PROTEIN_FIELDS)
    for name, kinds in zip(_TABLES, fields):
        write_table(folder / f"{name}.arrow", getattr(builder.columns, name), kinds)
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    manifest = {
        "format": 1, "featuriser": FEATURISER_VERSION, "settings": vars(settings), "tokenizer": tokenizer.sha256,
        "records": len(builder.columns.records["ident"]), "molecules": len(builder.columns.molecules["text"]),
        "proteins": len(builder.columns.proteins["text"]),
        "skipped": dict(Counter(line["reason"] for line in skipped)), "changed": dict(builder.changed),
        "sha256": {name: sha256_file(folder / f"{name}.arrow") for name in _TABLES},
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return manifest


class QaStore:
    """An opened split."""

    def __init__(self, path: Path) -> None:
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} is no alignment dataset", expected=MANIFEST, do="make it with `megabiomed dataset build`"
            )
        self.path, self.manifest = path, read_json(path / MANIFEST)
        self.tokenizer_path, self.tokenizer_sha256 = path / "tokenizer.model", str(self.manifest["tokenizer"])
        self.fingerprint = sha256_file(path / MANIFEST)
        self._tables = {name: read_table(path / f"{name}.arrow") for name in _TABLES}
        self.ids, self.id_ends = flat_lists(self._tables["records"]["ids"])
        self.kinds, self.item_ends = flat_lists(self._tables["records"]["kinds"])
        self.rows, _ = flat_lists(self._tables["records"]["rows"])
        self.items, _ = flat_lists(self._tables["records"]["items"])
        self.answer_start = self._tables["records"]["answer_start"].to_numpy()

    def __len__(self) -> int:
        return len(self.answer_start)

    def text(self, record: int) -> tuple[str, str, str]:
        """(id, question, answer)."""
        table = self._tables["records"]
        return tuple(table[key][record].as_py() for key in ("ident", "question", "answer"))

    def record_items(self, record: int) -> list[tuple[int, int, int]]:
        """(modality number, row in its table, encoder rows) of each placeholder."""
        low, high = self.item_ends[record], self.item_ends[record + 1]
        return list(zip(self.kinds[low:high].tolist(), self.items[low:high].tolist(), self.rows[low:high].tolist()))

    def features(self, kind: int, row: int) -> Features:
        """Features of one molecule (kind 0) or protein (kind 1)."""
        if kind == 1:
            return Protein(self._array("proteins", "tokens", row))
        atoms, edges, bonds = (self._array("molecules", key, row) for key in ("atoms", "edges", "bonds"))
        return Molecule(atoms.reshape(-1, 2), edges.reshape(2, -1), bonds.reshape(-1, 2))

    def item_text(self, kind: int, row: int) -> str:
        """SMILES or sequence."""
        return str(self._tables["proteins" if kind else "molecules"]["text"][row].as_py())

    def _array(self, table: str, key: str, row: int) -> Any:
        return self._tables[table][key][row].values.to_numpy()
