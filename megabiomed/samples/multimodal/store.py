"""One split on disk: an `AnswerStore` with tables of featurised molecules and proteins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from megabiomed.data.arrow import flat_lists
from megabiomed.encoders.esm2.alphabet import Protein, ProteinError, encode
from megabiomed.encoders.gin.featurise import FEATURISER_VERSION, Molecule, MoleculeError, Salts, featurise
from megabiomed.encoders.schedule import MODALITIES
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import sha256_file
from megabiomed.samples.multimodal.batch import Features
from megabiomed.samples.multimodal.prompts import find_template, pieces, render
from megabiomed.samples.multimodal.records import QaRecord
from megabiomed.samples.rejects import Reject
from megabiomed.samples.store import ANSWER_FIELDS, MANIFEST, RECORDS, AnswerStore, Table, check_new, write_store
from megabiomed.tokenizer.tokenizer import Tokenizer

_TABLES = ("molecules", "proteins")
_FIELDS: dict[str, dict[str, Any]] = {
    RECORDS: {
        **ANSWER_FIELDS, "question": pa.string(), "answer": pa.string(), "kinds": pa.list_(pa.int8()),
        "rows": pa.list_(pa.int32()), "items": pa.list_(pa.int32()),
    },
    "molecules": {
        "text": pa.string(), "atoms": pa.list_(pa.uint8()), "edges": pa.list_(pa.uint16()), "bonds": pa.list_(pa.uint8()),
    },
    "proteins": {"text": pa.string(), "tokens": pa.list_(pa.uint8())},
}  # fmt: skip


@dataclass(frozen=True)
class BuildSettings:
    """How records become samples; stored in the manifest."""

    template: str = "biomedgpt"
    max_atoms: int = 256
    max_residues: int = 1022
    salts: Salts = "keep"
    max_answer_tokens: int = 512


class _Builder:
    def __init__(self, tokenizer: Tokenizer, settings: BuildSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.template = find_template(settings.template)
        self.tables = {name: Table.empty(fields) for name, fields in _FIELDS.items()}
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
        self.tables[RECORDS].append(
            ident=record.ident, question=record.question, answer=record.answer.strip(),
            ids=[*ids, *answer, self.tokenizer.eos_id], answer_start=len(ids), kinds=[kind for kind, _ in items],
            rows=[rows for _, rows in features], items=[index for index, _ in features],
        )  # fmt: skip

    def _feature(self, kind: int, text: str) -> tuple[int, int]:
        """(row in its table, encoder rows); each molecule and protein is stored once."""
        if (kind, text) not in self.seen:
            rows = self._molecule(text) if kind == 0 else self._protein(text)
            self.seen[kind, text] = len(self.tables[_TABLES[kind]]) - 1, rows
        return self.seen[kind, text]

    def _molecule(self, text: str) -> int:
        made = featurise(text, self.settings.max_atoms, self.settings.salts)
        flat = {"atoms": made.atoms.ravel(), "edges": made.edges.ravel(), "bonds": made.bonds.ravel()}
        self.tables["molecules"].append(text=text, **flat)
        self.changed["molecules_with_several_fragments"] += "." in text
        return made.rows

    def _protein(self, text: str) -> int:
        made = encode(text, self.settings.max_residues)
        self.tables["proteins"].append(text=text, tokens=made.tokens)
        self.changed["proteins_truncated"] += made.truncated
        self.changed["proteins_with_replaced_letters"] += made.changed > 0
        return made.rows


def build_split(
    records: Iterable[QaRecord], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:  # fmt: skip
    """Write one split and return its manifest; records that cannot be samples are counted by reason and listed."""
    check_new(folder)
    builder, rejects = _Builder(tokenizer, settings), []
    for record in records:
        try:
            builder.add(record)
        except DataError as error:
            reason = getattr(error, "reason", "placeholder" if "placeholder" in str(error) else "other")
            kind = {MoleculeError: "molecule ", ProteinError: "protein "}.get(type(error), "")
            rejects.append(Reject("", record.ident, kind + reason, str(error)))
        progress()
    about = {
        "featuriser": FEATURISER_VERSION, "settings": vars(settings), "changed": dict(builder.changed),
        **{name: len(builder.tables[name]) for name in _TABLES},
    }  # fmt: skip
    return write_store(folder, builder.tables, rejects, tokenizer, about)


class QaStore(AnswerStore):
    """An opened split."""

    what, command = "dataset of molecules and proteins", "megabiomed dataset build"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._tables = {name: self.table(name) for name in _TABLES}
        self.kinds, self.item_ends = flat_lists(self.records["kinds"])
        self.rows, _ = flat_lists(self.records["rows"])
        self.items, _ = flat_lists(self.records["items"])

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest, which holds those of the tables."""
        return sha256_file(self.path / MANIFEST)

    def text(self, record: int) -> tuple[str, str, str]:
        """(id, question, answer)."""
        return tuple(self.records[key][record].as_py() for key in ("ident", "question", "answer"))

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
