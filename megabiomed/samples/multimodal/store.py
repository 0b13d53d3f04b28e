"""One split on disk: an `AnswerStore` with a table of featurised items per modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from megabiomed.data.arrow import flat_lists
from megabiomed.encoders.modality import Features, Modality, modality_of
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import sha256_file
from megabiomed.samples.store import ANSWER_FIELDS, MANIFEST, AnswerStore

RECORD_FIELDS: dict[str, Any] = {
    **ANSWER_FIELDS, "question": pa.string(), "answer": pa.string(), "kinds": pa.list_(pa.int8()),
    "rows": pa.list_(pa.int32()), "items": pa.list_(pa.int32()),
}  # fmt: skip
"""Of each placeholder: number of its modality in the manifest, rows of its encoder, row in the modality's table."""
_UNNAMED = ("molecule", "protein")
"""Modalities of stores of format 1, whose manifests do not name them, by number."""


def table_fields(modality: Modality[Any, Any]) -> dict[str, Any]:
    """Arrow types of a modality's table."""
    lists = {name: pa.list_(pa.from_numpy_dtype(np.dtype(kind))) for name, kind in modality.columns.items()}
    return {"text": pa.string(), **lists}


class StoredItem(NamedTuple):
    """One item of a record.

    Attributes:
        modality: its name.
        row: in the modality's table.
        rows: of the encoder.
    """

    modality: str
    row: int
    rows: int


class QaStore(AnswerStore):
    """An opened split.

    Attributes:
        modalities: by name, in the order of their numbers in the store.
    """

    what, command = "multimodal dataset", "megabiomed multimodal build"

    def _read_more(self) -> None:
        self.modalities = {name: modality_of(kind) for name, kind in self._kinds().items()}
        self._tables = {name: self.table(modality.table) for name, modality in self.modalities.items()}
        self.kinds, self.item_ends = flat_lists(self.records["kinds"])
        self.rows, _ = flat_lists(self.records["rows"])
        self.items, _ = flat_lists(self.records["items"])
        self._names = list(self.modalities)

    def _kinds(self) -> dict[str, str]:
        """Registered kind of each modality by name; features that today's code would make otherwise are refused."""
        if self.format == 1:
            held = {name: {"kind": name, "version": self.manifest["featuriser"]} for name in _UNNAMED}
        else:
            held = self.manifest["modalities"]
        for name, about in held.items():
            now = modality_of(about["kind"]).version
            if about["version"] != now:
                raise DataError(
                    f"{self.path} was made with another version of {name} features", got=about["version"], expected=now,
                    do="make it again with `megabiomed multimodal build`",
                )  # fmt: skip
        return {name: about["kind"] for name, about in held.items()}

    @property
    def fingerprint(self) -> str:
        """Hash of the manifest, which holds those of the tables."""
        return sha256_file(self.path / MANIFEST)

    @property
    def template(self) -> str:
        """Name of the prompt template."""
        return str(self.manifest["settings"]["template"])

    def text(self, record: int) -> tuple[str, str, str]:
        """(id, question, answer)."""
        ident, question, answer = (str(self.records[key][record].as_py()) for key in ("ident", "question", "answer"))
        return ident, question, answer

    def record_items(self, record: int) -> list[StoredItem]:
        """The items of a record, in the order of their placeholders."""
        low, high = self.item_ends[record], self.item_ends[record + 1]
        found = zip(self.kinds[low:high].tolist(), self.items[low:high].tolist(), self.rows[low:high].tolist())
        return [StoredItem(self._names[kind], row, rows) for kind, row, rows in found]

    def features(self, modality: str, row: int) -> Features:
        """Features of one item."""
        table, kind = self._tables[modality], self.modalities[modality]
        held: Features = kind.from_row({name: table[name][row].values.to_numpy() for name in kind.columns})
        return held

    def item_text(self, modality: str, row: int) -> str:
        """What the features were made of: a SMILES, a sequence."""
        return str(self._tables[modality]["text"][row].as_py())

    def item_texts(self, record: int) -> Mapping[str, list[str]]:
        """Texts of a record's items by modality, as in `MultimodalQuestion.items`."""
        found: dict[str, list[str]] = {}
        for item in self.record_items(record):
            found.setdefault(item.modality, []).append(self.item_text(item.modality, item.row))
        return found
