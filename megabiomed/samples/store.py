"""Questions with answers as token ids on disk: what the stores of questions and of multimodal datasets share.

store/ records.arrow [further tables] rejects.jsonl tokenizer.model manifest.json; the folder gets its name when all of it
is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from megabiomed.data.arrow import flat_lists, read_table, write_table
from megabiomed.ground.damage import reading
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import new_folder, read_json, sha256_file, write_json
from megabiomed.ground.staged import local
from megabiomed.samples.rejects import REJECTS, Reject, counts, read_rejects, write_rejects
from megabiomed.tokenizer.files import copy_into, require_in
from megabiomed.tokenizer.interface import Tokenizer

MANIFEST = "manifest.json"
RECORDS = "records"
FORMAT = 2
ANSWER_FIELDS: dict[str, Any] = {"ident": pa.string(), "ids": pa.list_(pa.int32()), "answer_start": pa.int32()}
"""Columns of every records table: id, token ids, and the first of them that is answer. The ids end with what ends an
answer, EOS or a token of the chat template, except where it was cut."""


@dataclass(frozen=True)
class Table:
    """A table to write: values and Arrow types of its columns."""

    columns: Mapping[str, list[Any]]
    fields: Mapping[str, Any]

    @classmethod
    def empty(cls, fields: Mapping[str, Any]) -> Table:
        """A table without rows, to append to."""
        return cls({name: [] for name in fields}, fields)

    def append(self, **values: Any) -> None:
        """Add a row; every column gets a value."""
        for name in self.fields:
            self.columns[name].append(values[name])

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def check_new(folder: Path) -> None:
    """Refuse with a `DataError` to write a store over anything else."""
    if folder.exists():
        raise DataError(f"{folder} already exists", do="choose another folder or delete this one")


def write_store(
    folder: Path, tables: Mapping[str, Table], rejects: Sequence[Reject], tokenizer: Tokenizer, about: dict[str, Any]
) -> dict[str, Any]:
    """Write a store and return its manifest; a crash leaves no folder of that name.

    Args:
        tables: of these `records` has at least `ANSWER_FIELDS`.
        about: what the manifest says besides.
    """
    check_new(folder)
    with new_folder(folder) as temporary:
        for name, table in tables.items():
            write_table(temporary / f"{name}.arrow", table.columns, table.fields)
        write_rejects(temporary / REJECTS, rejects)
        copy_into(temporary, tokenizer.path)
        manifest = {
            "format": FORMAT, **about, "tokenizer": tokenizer.sha256, "records": len(tables[RECORDS]),
            "left_out": counts(rejects), "sha256": {name: sha256_file(temporary / f"{name}.arrow") for name in tables},
        }  # fmt: skip
        write_json(temporary / MANIFEST, manifest)
    return manifest


class AnswerStore(ABC):
    """An opened store. All records lie one after the other.

    Attributes:
        ids: token ids of all records.
        id_ends: [records + 1] ends in `ids`, starting with 0.
        answer_start: [records] first id of the answer, counted within the record.
        fingerprint: changes when the content does.

    Raises:
        DataError: the folder holds no such store, or one of a format that this version does not read.
    """

    what: ClassVar[str]
    """The kind of store, for messages: "store of questions"."""
    command: ClassVar[str]
    """What makes one: "megabiomed questions build"."""
    formats: ClassVar[tuple[int, ...]] = (1, FORMAT)

    def __init__(self, path: Path) -> None:
        advice = f"make it with `{self.command}`"
        if not (path / MANIFEST).is_file():
            raise DataError(f"{path} is not a {self.what}", expected=MANIFEST, do=advice)
        self.path, self.manifest = path, read_json(path / MANIFEST, dict)
        self.format = self.manifest.get("format")
        if self.format not in self.formats:
            raise DataError(f"{path} has another format", got=self.format, expected=FORMAT, do=f"{advice} again")
        with reading(path, f"{advice} again"):
            self.tokenizer_path, self.tokenizer_sha256 = require_in(path), str(self.manifest["tokenizer"])
            self.records = self.table(RECORDS)
            self.idents = self.records["ident"]
            self.ids, self.id_ends = flat_lists(self.records["ids"])
            self.answer_start = self.records["answer_start"].to_numpy()
            self._read_more()

    def _read_more(self) -> None:  # noqa: B027 - a store may have nothing besides
        """What a kind of store has besides; a missing key or another type in its files is a `DataError` there."""

    def __len__(self) -> int:
        return len(self.answer_start)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """See the class."""

    @property
    def left_out(self) -> dict[str, int]:
        """Number of records that were left out when the store was made, by reason."""
        found = self.manifest.get("left_out", self.manifest.get("skipped"))
        return found if isinstance(found, dict) else {}

    def rejects(self) -> list[Reject]:
        """The records that were left out when the store was made."""
        return read_rejects(self.path)

    def table(self, name: str) -> Any:
        """An Arrow table of the store, memory-mapped."""
        return read_table(local(self.path) / f"{name}.arrow")
