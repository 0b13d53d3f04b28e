"""The hash of consumed samples does not know about batches, and a changed order is told key by key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import make_store

from megabiomed.config import DataConfig
from megabiomed.data.loader import TrainLoader
from megabiomed.data.progress import DataProgress, verdict
from megabiomed.data.store import TokenStore


def identity(stores: list[TokenStore], weights: list[float], seed: int = 3, seq_length: int = 16) -> dict[str, Any]:
    data = DataConfig(seq_length=seq_length, global_batch_size=8)
    return TrainLoader(stores, weights, data, seed).identity


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 40), max_size=5))
def test_the_hash_of_ids_is_independent_of_batches(cuts: list[int]) -> None:
    ids = np.arange(120).reshape(40, 3)
    edges = [0, *sorted(cuts), 40]
    cut = DataProgress()
    for low, high in zip(edges, edges[1:]):
        cut = cut.advance(ids[low:high])
    whole = DataProgress().advance(ids)
    assert cut == whole
    assert DataProgress.from_dict(whole.to_dict()) == whole
    assert whole.ids_hash != DataProgress().advance(ids[::-1]).ids_hash


def test_progress_survives_json(store: TokenStore) -> None:
    progress = DataProgress(identity=identity([store], [1.0])).advance(np.arange(12).reshape(4, 3))
    assert DataProgress.from_dict(json.loads(json.dumps(progress.to_dict()))) == progress


def test_the_verdict_is_identical_for_the_same_order(store: TokenStore) -> None:
    saved = DataProgress(8, identity=identity([store, store], [1.0, 3.0]))
    found = verdict(saved, identity([store, store], [0.25, 0.75]))
    assert found.identical
    assert found.lines == ["data order: identical from sample 8 on"]


def test_the_verdict_names_every_change(store: TokenStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", store.tokenizer_path, [90, 80], seed=1)
    saved = DataProgress(8, identity=identity([store], [1.0]))
    found = verdict(saved, identity([other, store], [3.0, 1.0], seed=4, seq_length=32))
    assert not found.identical
    assert found.lines[0] == "data order: diverges at sample 8 because"
    assert {line.split(":")[0] for line in found.lines[1:]} == {
        "seed",
        "seq_length",
        "sources.0.fingerprint",
        "sources.0.share",
        "sources.0.windows",
        "sources.1.fingerprint",
        "sources.1.share",
        "sources.1.windows",
    }
    assert "seed: 3 -> 4" in found.lines
    assert "seq_length: 16 -> 32" in found.lines
    assert "sources.0.share: 1 -> 3/4" in found.lines
    assert "sources.1.share: absent -> 1/4" in found.lines
