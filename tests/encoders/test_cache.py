"""Residue embeddings on disk: what was written is read to the bit, by any writer, within a limit, for its weights only."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from megabiomed.encoders.cache import FeatureCache

TOKENS = bytes([0, 20, 15, 11, 2])
ROWS = torch.randn(5, 8)


def test_rows_come_back_to_the_bit_in_their_type(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "w", 1e6)
    assert cache.read(TOKENS) is None
    for rows in (ROWS, ROWS.bfloat16()):
        cache.write(TOKENS, rows)
        found = FeatureCache(tmp_path, "w", 1e6).read(TOKENS)
        assert found is not None
        assert found.dtype == rows.dtype
        assert torch.equal(found, rows)


def test_other_weights_and_other_proteins_are_not_found(tmp_path: Path) -> None:
    FeatureCache(tmp_path, "w", 1e6).write(TOKENS, ROWS)
    assert FeatureCache(tmp_path, "v", 1e6).read(TOKENS) is None
    assert FeatureCache(tmp_path, "w", 1e6).read(TOKENS[:4]) is None


def test_two_writers_of_one_protein_leave_a_whole_file(tmp_path: Path) -> None:
    caches = [FeatureCache(tmp_path, "w", 1e9) for _ in range(4)]
    big = torch.randn(5, 20_000)
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(cache.write, TOKENS, big) for cache in caches * 8]
        seen = [pool.submit(caches[0].read, TOKENS) for _ in range(32)]
    assert all(future.exception() is None for future in written)
    assert all(rows is None or torch.equal(rows, big) for rows in (future.result() for future in seen))
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_the_limit_holds_over_starts_and_ranks(tmp_path: Path) -> None:
    limit, size = 1000.0, 5 * 8 * 4
    for start in range(3):
        for rank in range(2):
            cache = FeatureCache(tmp_path, "w", limit, share=0.5)
            for number in range(10):
                cache.write(bytes([start, rank, number]), ROWS)
    held = list(tmp_path.rglob("*.safetensors"))
    assert 1 <= len(held) <= limit / size


def test_a_damaged_file_is_absent_and_written_again(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "w", 1e6)
    cache.write(TOKENS, ROWS)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:20])
    assert cache.read(TOKENS) is None
    cache.write(TOKENS, ROWS)
    assert torch.equal(cache.read(TOKENS), ROWS)
