"""The global batch is the same for every topology and every resume point; validation counts each window once."""

from __future__ import annotations

import json
import resource
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stores import make_store

from megabiomed.config import DataConfig, SourceConfig
from megabiomed.data import loader as loading
from megabiomed.data.loader import (
    TrainLoader,
    ValidationLoader,
    open_training_data,
    open_validation_data,
)
from megabiomed.data.order import SampleOrder
from megabiomed.data.packing import MicroBatch
from megabiomed.data.progress import DataProgress
from megabiomed.data.store import TokenStore
from megabiomed.data.store_writer import TokenStoreWriter
from megabiomed.data.windows import read_window, window_count
from megabiomed.ground.errors import ConfigError, DataError, TokenizerError
from megabiomed.processes import platform


def settings_for(**values: int) -> DataConfig:
    return DataConfig(**{"seq_length": 16, "global_batch_size": 8, "micro_batch_size": 1, "prefetch": 0, **values})


def loader(store: TokenStore, rank: int = 0, size: int = 1, first: int = 0, **values: int) -> TrainLoader:
    return TrainLoader([store], [1.0], settings_for(**values), seed=3, dp_rank=rank, dp_size=size, first_sample=first)


def prefetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def tokens(load: TrainLoader, steps: int) -> torch.Tensor:
    return torch.cat([m.tokens for step in islice(load, steps) for m in step.micro_batches])


@settings(max_examples=25, deadline=None)
@given(dp=st.sampled_from([1, 2, 4]), micro_batch_size=st.sampled_from([1, 2]), first=st.integers(0, 10**9))
def test_ranks_together_read_the_same_global_batch(
    store: TokenStore, dp: int, micro_batch_size: int, first: int
) -> None:
    alone = next(iter(loader(store, first=first)))
    shares = [next(iter(loader(store, r, dp, first, micro_batch_size=micro_batch_size))) for r in range(dp)]
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


@settings(max_examples=20, deadline=None)
@given(samples=st.integers(0, 100), batch=st.integers(1, 9))
def test_the_stream_does_not_depend_on_the_batch_size(store: TokenStore, samples: int, batch: int) -> None:
    ids = [step.sample_ids for step in islice(loader(store, first=samples, global_batch_size=batch), 4)]
    assert np.array_equal(np.concatenate(ids), loader(store).order.sample_ids(samples, 4 * batch))


def test_the_ids_of_a_step_do_not_depend_on_the_steps_before(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "IDS_AHEAD", 20)
    load = loader(store)
    for position in (40, 0, 8, 12, 13, 19, 20, 3, 10**9):
        assert np.array_equal(load.batch_at(position).sample_ids, load.order.sample_ids(position, 8))


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
    assert not prefetch_threads()


def test_closing_ends_the_iteration_and_its_thread(store: TokenStore) -> None:
    load = loader(store, prefetch=1)
    steps = iter(load)
    next(steps)
    assert len(prefetch_threads()) == 1
    load.close()
    assert not prefetch_threads()
    assert list(steps) == []


def test_a_second_iteration_replaces_the_first(store: TokenStore) -> None:
    load = loader(store, prefetch=2)
    first, second = iter(load), iter(load)
    begun = next(first).first_sample
    assert next(second).first_sample == begun == 0
    assert len(prefetch_threads()) == 1
    assert list(first) == []
    assert next(second).first_sample == 8
    load.close()


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
    trained = settings_for().model_copy(update={"train": [SourceConfig(path=store.path)], "validation": foreign.path})
    with pytest.raises(TokenizerError, match="tokenized differently"):
        open_validation_data(trained, 4)


def test_a_batch_that_would_lose_samples_is_refused(store: TokenStore) -> None:
    with pytest.raises(ConfigError, match=r"set data.global_batch_size=6 or 12$"):
        loader(store, 0, 3, global_batch_size=8, micro_batch_size=2)


def test_opening_continues_at_the_progress(store: TokenStore) -> None:
    data = settings_for().model_copy(update={"train": [SourceConfig(path=store.path)], "validation": store.path})
    begun = open_training_data(data, seed=3)
    progress = DataProgress(identity=begun.identity)
    for step in islice(begun, 3):
        progress = progress.advance(step.sample_ids)
    resumed = next(iter(open_training_data(data, seed=3, progress=progress)))
    assert resumed.first_sample == 24
    assert np.array_equal(resumed.sample_ids, begun.order.sample_ids(24, 8))
    validation = open_validation_data(data, 4)
    assert validation is not None
    assert validation.samples == 4
    with pytest.raises(DataError, match="nothing to train on"):
        open_training_data(settings_for(), seed=3)


def test_batches_for_a_gpu_lie_in_pinned_memory(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(platform, "has_cuda", lambda: True)
    monkeypatch.setattr(MicroBatch, "pinned", lambda batch: pinned.append(len(batch.tokens)) or batch)
    loader(store).batch_at(0)
    assert pinned == [16] * 8


def test_opening_and_the_first_batch_of_a_large_store_read_next_to_nothing(
    tmp_path: Path, tokenizer_file: Path
) -> None:
    """A sparse token file of 20 GB: whoever read it, or the provenance, as a whole would take minutes and all memory."""
    with TokenStoreWriter(tmp_path / "s", tokenizer_file, 300) as writer:
        writer.add(np.full(9, 7), {"paper_id": "a"})
    tokens = 10**10
    with (tmp_path / "s" / "tokens.bin").open("r+b") as file:
        file.truncate(2 * tokens)
    manifest = json.loads((tmp_path / "s" / "manifest.json").read_text())
    manifest["tokens"], manifest["files"]["tokens.bin"]["bytes"] = tokens, 2 * tokens
    (tmp_path / "s" / "manifest.json").write_text(json.dumps(manifest))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load = loader(TokenStore.open(tmp_path / "s"), first=5 * 10**11)
    assert next(iter(load)).first_sample == 5 * 10**11
    assert load.samples_per_epoch == (tokens - 1) // 16
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
