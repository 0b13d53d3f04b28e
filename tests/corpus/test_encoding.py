"""A build encodes by GigaToken or by the tokenizer itself, says which, and writes the same tokens either way."""

from __future__ import annotations

import logging
import re
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from megabiomed.corpus import cli, encoding
from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.cleaned_parts import PartWriter
from megabiomed.corpus.entries import shard_folder
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.records import Paper
from megabiomed.data.store import TokenStore
from megabiomed.ground.files import read_json
from megabiomed.tokenizer import choose_encoder, document_encoder
from tests.support.byte_level import byte_level


def a_build(folder: Path, name: str, tokenizer: Path | None = None) -> Path:
    if not (folder / "records.jsonl.gz").exists():
        write_records(folder / "records.jsonl.gz", 12, 0)
    given = [folder / "records.jsonl.gz"]
    build_corpus(
        BuildOptions(given, folder / name, tokenizer=tokenizer, vocab_size=400, validation_fraction=0.2, workers=1)
    )
    return folder / name


def printed(corpus: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the commands `corpus build` and `corpus inspect` print of a corpus."""
    cli._show(corpus, read_json(corpus / "report.json"))
    return " ".join(capsys.readouterr().out.split())


def refusing(message: str) -> object:
    def load(_converted: str) -> object:
        raise RuntimeError(message)

    return load


@pytest.mark.parametrize("kind", ["SentencePiece", "tokenizer.json"])
def test_a_store_has_the_same_identity_whichever_library_encoded_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    tokenizer = byte_level(tmp_path / "t") if kind == "tokenizer.json" else None
    fast = a_build(tmp_path, "fast", tokenizer)
    assert caplog.records == []
    assert re.search(r"encoded by gigatoken [\d.]+: the ids of .* on all [\d,]+ texts compared", printed(fast, capsys))
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(choose_encoder, "load_gigatoken", refusing("this one is new to me"))
        slow = a_build(tmp_path, "slow", tokenizer)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "encodes, not GigaToken: GigaToken cannot read it: this one is new to me" in caplog.text
    assert "not by GigaToken: GigaToken cannot read it: this one is new to me" in printed(slow, capsys)
    for split in ("train", "validation"):
        stores = [TokenStore.open(corpus / split) for corpus in (fast, slow)]
        assert stores[0].fingerprint == stores[1].fingerprint
        encoders = [store.manifest.pop("encoder") for store in stores]
        assert stores[0].manifest == stores[1].manifest
        assert encoders == [read_json(corpus / "report.json")["encoder"] for corpus in (fast, slow)]
    assert encoders[0]["library"].startswith("gigatoken ")
    assert encoders[1]["library"] == encoders[0]["reference"] == encoders[1]["reference"]


def test_texts_that_the_library_refuses_are_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = a_build(tmp_path, "all")
    load = document_encoder.load_gigatoken
    texts: list[str] = []

    def every_third(converted: str) -> object:
        encode = load(converted)

        def encoded(text: str) -> object:
            texts.append(text)
            return encode(text) if len(texts) % 3 else 1 / 0

        return encoded

    monkeypatch.setattr(document_encoder, "load_gigatoken", every_third)
    found = a_build(tmp_path, "some")
    refused = read_json(found / "report.json")["encoder"]["refused"]
    assert refused == {"division by zero": len(texts) // 3}
    assert f"; {len(texts) // 3} texts by the latter" in printed(found, capsys)
    assert f"GigaToken refused {len(texts) // 3} texts" in caplog.text
    assert (found / "train/tokens.bin").read_bytes() == (expected / "train/tokens.bin").read_bytes()


def test_the_sample_is_taken_from_kept_documents_all_over_the_corpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "SAMPLE_PARTS", 4)
    monkeypatch.setattr(encoding, "SAMPLE_CHARACTERS", 40)
    parts, splits = [], []
    for number in range(10):
        (folder := shard_folder(tmp_path, number)).mkdir()
        with closing(PartWriter(tmp_path, number, None, exact=True, near=False)) as written:
            for letter in "abcd":
                text = f"{number}{letter}" * 4
                written.add(Paper(letter, {}, "", None, text, {}, "a.jsonl", 1, 0), text)
        parts.append(folder / written.names[0])
        splits.append(tmp_path / f"{number}.npy")
        np.save(splits[-1], np.array([-1, 0, 1, 0], np.int8))
    found = [text[:2] for text in encoding._sample(parts, splits)]
    assert found == ["0b", "0c", "3b", "3c", "6b", "6c", "9b", "9c"]
    assert list(encoding._sample(parts[:1], splits[:1])) == ["0b" * 4, "0c" * 4, "0d" * 4]
