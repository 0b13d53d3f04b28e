"""The token store is what megatron-core reads, whole or absent, and checked when opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megabiomed.data.store import TokenStore
from megabiomed.data.store_writer import TokenStoreWriter
from megabiomed.ground.errors import DataError


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
    with pytest.raises(DataError, match="no such folder"):
        TokenStore.open(tmp_path / "no")
    shutil.copytree(store.path, tmp_path / "copy")
    manifest = json.loads((tmp_path / "copy/manifest.json").read_text())
    (tmp_path / "copy/manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(DataError, match="another format"):
        TokenStore.open(tmp_path / "copy")
    (tmp_path / "copy/manifest.json").unlink()
    with pytest.raises(DataError, match=r"without manifest.json"):
        TokenStore.open(tmp_path / "copy")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": 1}', '{"version": 1, "files": 3}'])
def test_a_damaged_manifest_is_refused_by_name(store: TokenStore, tmp_path: Path, content: str) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    (tmp_path / "copy/manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest.json is damaged"):
        TokenStore.open(tmp_path / "copy")


def test_an_index_of_another_store_is_refused(store: TokenStore, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "copy")
    index = tmp_path / "copy/tokens.idx"
    data = bytearray(index.read_bytes())
    data[17] = 4  # the type code: int32 instead of uint16
    index.write_bytes(data)
    with pytest.raises(DataError, match=r"tokens.idx is not what the manifest describes"):
        TokenStore.open(tmp_path / "copy")


def test_a_store_without_tokens_is_refused(tmp_path: Path, tokenizer_file: Path) -> None:
    with TokenStoreWriter(tmp_path / "x", tokenizer_file, 300):
        pass
    with pytest.raises(DataError, match="has no tokens"):
        TokenStore.open(tmp_path / "x")


@pytest.mark.parametrize("ids", [[1, 300, 2], [1, -1, 2], [1, 65536 + 5, 2], []])
def test_ids_outside_of_the_vocabulary_are_refused_not_wrapped(
    tmp_path: Path, tokenizer_file: Path, ids: list[int]
) -> None:
    with (
        pytest.raises(DataError, match="does not fit the vocabulary"),
        TokenStoreWriter(tmp_path / "x", tokenizer_file, 300) as writer,
    ):
        writer.add(np.array(ids, dtype=np.int64), {"paper_id": "a"})
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_never_written_over(store: TokenStore, tokenizer_file: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        TokenStoreWriter(store.path, tokenizer_file, 300)


def test_a_large_vocabulary_is_stored_in_four_bytes_and_read_by_megatron_core(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    with TokenStoreWriter(tmp_path / "x", tokenizer_file, 128_000) as writer:
        writer.add(np.array([1, 127_999, 2]), {"paper_id": "naïve"})
        writer.add(np.array([1, 2]), {"paper_id": "line\u2028end"})
    store = TokenStore.open(tmp_path / "x")
    assert store.tokens(0, 5).tolist() == [1, 127_999, 2, 1, 2]
    assert store.tokens(0, 5).dtype == np.int32
    dataset = IndexedDataset(str(tmp_path / "x" / "tokens"))  # must outlive its arrays: they are views of its map
    assert dataset[0].tolist() == [1, 127_999, 2]
    assert [store.paper_id(n) for n in (1, 0)] == ["line\u2028end", "naïve"]


def test_the_index_is_byte_for_byte_that_of_megatron_core(store: TokenStore, tmp_path: Path) -> None:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=np.uint16)
    for start, end in zip([0, *store.document_ends[:-1]], store.document_ends):
        tokens = torch.from_numpy(store.tokens(int(start), int(end)).astype(np.int32))
        builder.add_document(tokens, [len(tokens)])
    builder.finalize(str(tmp_path / "theirs.idx"))
    for suffix in ("bin", "idx"):
        assert (tmp_path / f"theirs.{suffix}").read_bytes() == (store.path / f"tokens.{suffix}").read_bytes()


def test_positions_and_documents_beyond_the_store_are_no_document(store: TokenStore) -> None:
    for position in (-1, store.num_tokens):
        with pytest.raises(IndexError):
            store.document_of(position)
    for document in (-1, store.num_documents):
        with pytest.raises(IndexError):
            store.paper_id(document)


def test_the_fingerprint_follows_the_tokens_and_nothing_else(tmp_path: Path, tokenizer_file: Path) -> None:
    prints = []
    for name, last, paper in (("a", 5, "p"), ("b", 5, "q"), ("c", 6, "p")):
        with TokenStoreWriter(tmp_path / name, tokenizer_file, 300) as writer:
            writer.add(np.array([1, last, 2]), {"paper_id": paper})
        prints.append(TokenStore.open(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] != prints[2]
