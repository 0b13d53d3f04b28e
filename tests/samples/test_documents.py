"""Entries of text files: what people's tools leave in them costs a record at the most."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabiomed.ground.errors import DataError
from megabiomed.samples.documents import read_entries
from megabiomed.samples.fields import is_missing, text_of
from megabiomed.samples.rejects import Unusable

LONG = "1" + "0" * 5000
"""More digits than Python converts."""


def rows(path: Path) -> list[object]:
    return [row for _, _, row in read_entries(path, lambda row: "answer" in row)]


@pytest.mark.parametrize("layout", ['[{{"id": {}}}, {{"id": 2}}]', '{{"id": {}}}\n{{"id": 2}}'], ids=["list", "lines"])
def test_a_number_that_python_does_not_convert_costs_one_record(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(layout.format(LONG))
    first, second = rows(path)
    assert second == {"id": 2}
    assert isinstance(first, dict)
    with pytest.raises(Unusable, match="id is not text"):
        text_of(first["id"], "id")


def test_files_that_were_put_together_keep_all_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf".join([b"", b'{"answer": "1"}\n', b'{"answer": "2"}\n']))
    assert rows(path) == [{"answer": "1"}, {"answer": "2"}]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    text = '\ufeff[{"answer": "1"}]' if encoding.endswith("be") else '[{"answer": "1"}]'
    path.write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=f"got {encoding[:6].upper()} text"):
        rows(path)


@pytest.mark.parametrize(
    ("value", "missing"), [("nan", True), (" NaN", True), ("<NA>", True), ("None", False), ("nano", False)]
)
def test_a_missing_value_is_missing_as_tables_spell_it(value: str, missing: bool) -> None:
    assert is_missing(value) is missing
