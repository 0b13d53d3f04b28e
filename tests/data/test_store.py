"""The token store is what megatron-core reads, whole or absent, and checked when opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megabiomed.data.store import TokenStore, TokenStoreWriter
from megabiomed.errors import DataError


def test_megatron_core_reads_the_same_documents(store: TokenStore) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    dataset = IndexedDataset(str(store.path / "tokens"))
    assert len(dataset) == store.num_documents
    start = 0
    for number, end in enumerate(store.document_ends):
        assert np.array_equal(dataset[number], store.tokens(start, int(end)))
        start = int(end)
    assert start == store.num_tokens


def test_provenance_leads_back_to_the_paper(store: TokenStore) -> None:
    ends = store.document_ends
    for number in (0, 3, store.num_documents - 1):
        assert store.document_of(int(ends[number]) - 1) == number
        assert store.paper_id(number) == f"p{number}"


def test_a_store_that_failed_while_building_does_not_exist(tmp_path: Path, tokenizer_file: Path) -> None:
    def build() -> None:
        with TokenStoreWriter(tmp_path / "x", tokenizer_file, 300) as writer:
            writer.add(np.array([1, 5, 2]), {"paper_id": "a"})
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        build()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["tokens.bin", "tokens.idx", "documents.jsonl", "tokenizer.model"])
def test_a_shortened_file_is_named(store: TokenStore, tmp_path: Path, name: str) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    file = tmp_path / "copy" / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=name):
        TokenStore.open(tmp_path / "copy")


def test_half_built_missing_and_foreign_folders_are_refused(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing there"):
        TokenStore.open(tmp_path / "no")
    shutil.copytree(store.path, tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy/manifest.json").read_text())
    (tmp_path / "copy/manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(DataError, match="another format"):
        TokenStore.open(tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    with pytest.raises(DataError, match=r"without manifest.json"):
        TokenStore.open(tmp_path / "copy")
