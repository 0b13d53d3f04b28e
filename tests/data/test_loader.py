"""The global batch is the same for every topology and resume point; the hash of ids does not know about batches."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import make_store

from megabiomed.config import DataConfig
from megabiomed.data.loader import TrainLoader, ValidationLoader, read_window, window_count
from megabiomed.data.order import SampleOrder
from megabiomed.data.progress import DataProgress, verdict
from megabiomed.data.store import TokenStore
from megabiomed.errors import DataError, TokenizerError


def settings_for(**values: int) -> DataConfig:
    return DataConfig(**{"seq_length": 16, "global_batch_size": 8, "micro_batch_size": 1, "prefetch": 0, **values})


def loader(store: TokenStore, rank: int = 0, size: int = 1, first: int = 0, **values: int) -> TrainLoader:
    return TrainLoader([store], [1.0], settings_for(**values), seed=3, dp_rank=rank, dp_size=size, first_sample=first)


def tokens(load: TrainLoader, steps: int) -> torch.Tensor:
    return torch.cat([m.tokens for step in islice(load, steps) for m in step.micro_batches])


@pytest.mark.parametrize("dp", [2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_ranks_together_read_the_same_global_batch(store: TokenStore, dp: int, micro_batch_size: int) -> None:
    alone = next(iter(loader(store)))
    shares = [next(iter(loader(store, r, dp, micro_batch_size=micro_batch_size))) for r in range(dp)]
    together = torch.cat([m.tokens for share in shares for m in share.micro_batches])
    assert torch.equal(together, torch.cat([m.tokens for m in alone.micro_batches]))
    assert all(np.array_equal(share.sample_ids, alone.sample_ids) for share in shares)


@pytest.mark.parametrize("prefetch", [0, 3])
def test_a_resume_continues_where_it_stopped(store: TokenStore, prefetch: int) -> None:
    with_thread = loader(store, prefetch=prefetch)
    whole = tokens(with_thread, 6)
    with_thread.close()
    rest = loader(store, first=4 * 8)
    assert torch.equal(whole[4 * 8 * 16 :], tokens(rest, 2))


def test_windows_carry_the_tokens_of_the_store(store: TokenStore) -> None:
    ends = set(store.document_ends.tolist())
    for number in (0, 1, window_count(store, 16) - 1):
        window = read_window(store, number, 16)
        assert np.array_equal(window.tokens, store.tokens(number * 16, number * 16 + 16))
        starts = {number * 16 + int(s) for s in window.start}
        assert starts - {number * 16} == {p for p in range(number * 16 + 1, number * 16 + 16) if p in ends}


def test_an_error_in_the_background_reaches_the_consumer(store: TokenStore) -> None:
    load = loader(store, prefetch=2)

    def broken(first: int, count: int) -> np.ndarray:
        raise OSError("disk gone")

    load.order = SampleOrder(load.order.sources, 1)
    load.order.sample_ids = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk gone"):
        next(iter(load))
    load.close()


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


def test_the_verdict_names_every_change(store: TokenStore) -> None:
    now = loader(store).identity
    assert verdict(DataProgress(8, identity=now), now).identical
    changed = verdict(DataProgress(8, identity=now), {**loader(store, seq_length=32).identity, "seed": 4})
    assert not changed.identical
    assert changed.lines[0] == "data order: diverges at sample 8 because"
    assert "seed: 3 -> 4" in changed.lines
    assert "seq_length: 16 -> 32" in changed.lines


@pytest.mark.parametrize(("samples", "dp", "micro"), [(7, 2, 2), (5, 4, 1), (8, 1, 3), (1, 2, 1)])
def test_validation_is_dealt_evenly_and_counts_once(store: TokenStore, samples: int, dp: int, micro: int) -> None:
    data = settings_for(micro_batch_size=micro)
    shares = [ValidationLoader(store, data, samples, r, dp).micro_batches() for r in range(dp)]
    assert len({len(share) for share in shares}) == 1
    alone = ValidationLoader(store, settings_for(), samples).micro_batches()
    counted = sum(m.num_loss_tokens for share in shares for m in share)
    assert counted == sum(m.num_loss_tokens for m in alone)


def test_short_stores_and_mixed_tokenizers_are_refused(store: TokenStore, tmp_path: Path, tokenizer_file: Path) -> None:
    with pytest.raises(DataError, match="shorter than one window"):
        loader(store, seq_length=4000)
    other = tmp_path / "other.model"
    other.write_bytes(tokenizer_file.read_bytes() + b"\n")
    foreign = make_store(tmp_path / "foreign", other, [50, 50])
    with pytest.raises(TokenizerError, match="tokenized differently"):
        TrainLoader([store, foreign], [1, 1], settings_for(), seed=0)
