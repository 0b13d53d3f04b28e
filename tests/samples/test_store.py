"""Both stores of answers appear whole or not at all, refuse what they cannot read, and read what older versions wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.ground.errors import DataError
from megabiomed.samples import store as stores
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.samples.questions.store import QuestionStore
from megabiomed.samples.rejects import Reject, read_rejects, write_rejects
from megabiomed.samples.store import ANSWER_FIELDS, MANIFEST, RECORDS, Table, write_store
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(iter(["which answer is right and which answer is wrong " * 20]), path, 280)
    return open_tokenizer(path)


def records(rows: int) -> Table:
    table = Table.empty(ANSWER_FIELDS)
    for row in range(rows):
        table.append(ident=str(row), ids=[1, 5, 6 + row, 2], answer_start=2)
    return table


def test_a_crash_while_writing_leaves_nothing(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(stores, "write_json", crash)  # the last file
    with pytest.raises(OSError, match="disk full"):
        write_store(tmp_path / "s", {RECORDS: records(3)}, [], tokenizer, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_written_is_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    rejects = [Reject("f.json:1", "a", "no answer", "x"), Reject("f.json:2", "b", "no answer")]
    write_store(tmp_path / "s", {RECORDS: records(3)}, rejects, tokenizer, {})
    store = QuestionStore(tmp_path / "s")
    assert (len(store), store.prompt(2), store.idents.to_pylist()) == (3, [1, 5], ["0", "1", "2"])
    assert store.left_out == {"no answer": 2}
    assert store.rejects() == rejects
    with pytest.raises(DataError, match="already exists"):
        write_store(tmp_path / "s", {RECORDS: records(3)}, [], tokenizer, {})


@pytest.mark.parametrize("kind", [QuestionStore, QaStore])
def test_a_store_of_another_format_is_refused(
    kind: type[QuestionStore | QaStore], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    write_store(tmp_path / "s", {RECORDS: records(3)}, [], tokenizer, {})
    manifest = json.loads((tmp_path / "s" / MANIFEST).read_text())
    (tmp_path / "s" / MANIFEST).write_text(json.dumps({**manifest, "format": 7}))
    with pytest.raises(DataError, match="another format: got 7"):
        kind(tmp_path / "s")
    with pytest.raises(DataError, match="is not a"):
        kind(tmp_path)


def test_an_older_store_of_questions_is_read_with_the_same_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    write_store(tmp_path / "s", {RECORDS: records(3)}, [], tokenizer, {})
    now = QuestionStore(tmp_path / "s").fingerprint
    manifest = json.loads((tmp_path / "s" / MANIFEST).read_text())
    (tmp_path / "s" / MANIFEST).write_text(json.dumps({**manifest, "format": 1, "sha256": now}))
    assert QuestionStore(tmp_path / "s").fingerprint == now


def test_rejects_are_read_under_both_names(tmp_path: Path) -> None:
    assert read_rejects(tmp_path) == []
    line = {"id": "q.json:7", "reason": "molecule invalid", "message": "molecule refused"}
    (tmp_path / "skipped.jsonl").write_text(json.dumps(line) + "\n")
    assert read_rejects(tmp_path) == [Reject("", "q.json:7", "molecule invalid", "molecule refused")]
    write_rejects(tmp_path / "rejects.jsonl", [Reject("s", "i", "r")])
    assert read_rejects(tmp_path) == [Reject("s", "i", "r")]
