"""A store that is joined from parts, in any order of the jobs, is the one that a single writer makes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megabiomed.data import store_parts
from megabiomed.data.store import TokenStore
from megabiomed.data.store_parts import StoreFromParts, StorePart, copy_parts
from megabiomed.data.store_writer import TokenStoreWriter
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import sha256_file

MORE = {"bos_id": 1, "eos_id": 2, "sources": []}


def written(folder: Path, lengths: list[list[int]], writer: TokenStoreWriter) -> list[StorePart]:
    """Parts with documents of these lengths; the writer gets the same documents."""
    parts = []
    for number, held in enumerate(lengths):
        documents = [np.arange(length) % 250 + number for length in held]
        names = [{"paper_id": f"p{number}-{n}"} for n in range(len(held))]
        for ids, name in zip(documents, names):
            writer.add(ids, name)
        tokens, kept, provenance = (folder / f"{number}.{end}" for end in ("bin", "npy", "jsonl"))
        tokens.write_bytes(b"".join(ids.astype(np.uint16).tobytes() for ids in documents))
        np.save(kept, np.array(held, np.int32))
        provenance.write_text("".join(json.dumps(name) + "\n" for name in names))
        size = provenance.stat().st_size
        parts.append(StorePart(tokens, kept, provenance, len(held), sum(held), size))
    return parts


@pytest.mark.parametrize("lengths", [[[3, 5], [], [2, 9, 4], [1]], [[7]], [[], []]])
def test_parts_become_the_store_of_a_single_writer(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[list[int]]
) -> None:
    monkeypatch.setattr(store_parts, "JOB_BYTES", 12)
    with TokenStoreWriter(tmp_path / "whole", tokenizer_file, 300) as writer:
        parts = written(tmp_path, lengths, writer)
    joined = StoreFromParts(tmp_path / "joined", parts, tokenizer_file, 300, MORE)
    for job in [*joined.jobs[::-1], joined.jobs[0]]:  # a job that is done again changes nothing
        copy_parts(job)
    joined.publish({file.name: sha256_file(file) for file in joined.files})
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "joined" / file.name).read_bytes() == file.read_bytes(), file.name
    if any(lengths):
        store = TokenStore.open(tmp_path / "joined")
        documents = range(store.num_documents)
        assert [store.indexed_bounds(n) for n in documents] == [store.document_bounds(n) for n in documents]


def test_a_part_that_is_too_short_is_named(tmp_path: Path, tokenizer_file: Path) -> None:
    with TokenStoreWriter(tmp_path / "whole", tokenizer_file, 300) as writer:
        parts = written(tmp_path, [[3, 5]], writer)
    joined = StoreFromParts(tmp_path / "joined", parts, tokenizer_file, 300, MORE)
    parts[0].tokens.write_bytes(b"123")
    with pytest.raises(DataError, match=r"0\.bin is damaged"):
        copy_parts(joined.jobs[0])
    with pytest.raises(DataError, match="exists already"):
        StoreFromParts(tmp_path / "whole", parts, tokenizer_file, 300, MORE)
