"""Both ways of packing hold what they promise: whole documents where they fit, every token once, labels inside a document."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.stores import make_store

from megabiomed.config import DataConfig
from megabiomed.data import best_fit
from megabiomed.data.best_fit import MAX_PADDING
from megabiomed.data.loader import TrainLoader
from megabiomed.data.packing import IGNORE_INDEX, MicroBatch, pack_window
from megabiomed.data.progress import DataProgress, verdict
from megabiomed.data.steps import RunSteps, Stretch
from megabiomed.data.store import TokenStore
from megabiomed.data.trace import trace_paper, trace_step
from megabiomed.data.windows import BestFitWindows, Windows, describe, left_out, read, read_micro_batch, windows_of

STEPS = RunSteps([Stretch(0, 0, 4)])


def loader(store: TokenStore, packing: str, rank: int = 0, size: int = 1) -> TrainLoader:
    data = DataConfig(seq_length=16, global_batch_size=4, packing=packing, prefetch=0)  # type: ignore[arg-type]
    return TrainLoader([store], [1.0], data, seed=3, dp_rank=rank, dp_size=size)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=30), size=st.integers(2, 24))
def test_best_fit_windows_equal_the_obvious_construction(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path, lengths: list[int], size: int
) -> None:
    store = make_store(tmp_path_factory.mktemp("w") / "s", tokenizer_file, lengths)
    windows = BestFitWindows(store, size)
    seen, parts = np.zeros(store.num_tokens, np.int64), np.zeros(len(lengths), np.int64)
    for number in range(len(windows)):
        window, place = read(windows, number, size), 0
        for document, low, high in windows.pieces(number):
            stop, end = place + high - low, store.document_bounds(document)[1]
            assert window.tokens[place:stop].tolist() == store.tokens(low, high).tolist()
            following = [int(store.tokens(p, p + 1)[0]) if p < end else IGNORE_INDEX for p in range(low + 1, high + 1)]
            assert window.labels[place:stop].tolist() == following
            assert set(window.start[place:stop].tolist()) == {place}
            assert set(window.end[place:stop].tolist()) == {stop}
            seen[low:high] += 1
            parts[document] += 1
            place = stop
        assert set(window.labels[place:].tolist()) <= {IGNORE_INDEX}
        assert set(window.start[place:].tolist()) <= {place}
        assert set(window.end[place:].tolist()) <= {size}
    assert seen.tolist() == [1] * store.num_tokens  # nothing is lost, not even the last tokens
    cuts = parts - [-(-length // size) for length in lengths]
    assert cuts.min() >= 0
    assert cuts.sum() < max(1, len(windows) - windows._before_loose)  # one for each end of a window of loose ends
    places = size * len(windows)
    assert places - store.num_tokens <= max(MAX_PADDING * places, size - 1)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=30), size=st.integers(1, 24))
def test_what_no_window_holds_is_counted(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path, lengths: list[int], size: int
) -> None:
    store = make_store(tmp_path_factory.mktemp("w") / "s", tokenizer_file, lengths)
    for packing in ("contiguous", "best_fit"):
        windows, lost = windows_of(store, size, packing), np.array(lengths)
        for document, low, high in (part for number in range(len(windows)) for part in windows.pieces(number)):
            lost[document] -= high - low
        assert windows.left_out == (lost.sum(), (lost > 0).sum())


def test_what_is_left_out_is_said_and_named_by_store(tmp_path: Path, tokenizer_file: Path) -> None:
    store = make_store(tmp_path / "s", tokenizer_file, [30, 3, 6])
    whole, cut = (windows_of(store, 16, packing) for packing in ("best_fit", "contiguous"))
    said = f"{store.path}: 2 windows; 7 tokens at its end, of 2 documents, fill no window and are left out"
    assert describe(store, cut) == said
    assert "left out" not in describe(store, whole)
    assert left_out([store, store], [cut, whole]) == {str(store.path): {"tokens": 7, "documents": 2}}


@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_places_are_the_windows_that_hold_a_document(store: TokenStore, packing: str) -> None:
    windows: Windows = windows_of(store, 16, packing)
    held = [(p.document, n, p.high - p.low) for n in range(len(windows)) for p in windows.pieces(n)]
    places = [(d, n, tokens) for d in range(store.num_documents) for n, tokens in windows.places(d)]
    assert sorted(held) == sorted(places)


def test_best_fit_cuts_fewer_documents(tmp_path: Path, tokenizer_file: Path) -> None:
    lengths = np.random.default_rng(0).integers(2, 24, 400).tolist()
    store = make_store(tmp_path / "s", tokenizer_file, lengths)
    parts = {}
    for packing in ("contiguous", "best_fit"):
        windows = windows_of(store, 32, packing)
        held = [piece.document for n in range(len(windows)) for piece in windows.pieces(n)]
        parts[packing] = len(held) - len(set(held))
    assert parts["best_fit"] < 10 < 100 < parts["contiguous"]
    assert store.num_tokens / (32 * len(windows_of(store, 32, "best_fit"))) > 1 - MAX_PADDING


def test_no_document_is_cut_that_fits_where_the_padding_is_small(tmp_path: Path, tokenizer_file: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 12, 3000).tolist()
    store = make_store(tmp_path / "s", tokenizer_file, lengths)
    windows = windows_of(store, 32, "best_fit")
    assert sorted(p.document for n in range(len(windows)) for p in windows.pieces(n)) == list(range(len(lengths)))


def test_a_resume_sees_that_windows_were_taken_apart(
    tmp_path: Path, tokenizer_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "s", tokenizer_file, [9] * 20)
    now = loader(store, "best_fit")
    assert len(now.windows[0]._loose)
    monkeypatch.setattr(best_fit, "MAX_PADDING", 1.0)  # as it was before windows were taken apart
    before = loader(store, "best_fit")
    assert not len(before.windows[0]._loose)
    found = verdict(DataProgress(8, identity=before.identity), now.identity)
    assert not found.identical
    assert any("windows" in line for line in found.lines[1:])


def test_ranks_and_resumes_share_the_order_of_best_fit(store: TokenStore) -> None:
    alone = loader(store, "best_fit").batch_at(40)
    shares = [loader(store, "best_fit", rank, 2).batch_at(40) for rank in range(2)]
    together = [m.tokens.tolist() for share in shares for m in share.micro_batches]
    assert together == [m.tokens.tolist() for m in alone.micro_batches]
    epoch = loader(store, "best_fit")
    ids = epoch.order.sample_ids(0, epoch.samples_per_epoch)
    assert sorted(ids[:, 2].tolist()) == list(range(len(epoch.windows[0])))


def test_the_verdict_names_a_changed_packing(store: TokenStore) -> None:
    saved = DataProgress(8, identity=loader(store, "contiguous").identity)
    assert "packing" not in saved.identity
    found = verdict(saved, loader(store, "best_fit").identity)
    assert not found.identical
    assert "packing: absent -> best_fit" in found.lines
    assert verdict(
        DataProgress(8, identity=loader(store, "best_fit").identity), loader(store, "best_fit").identity
    ).identical


def test_a_trace_agrees_with_best_fit_windows(store: TokenStore) -> None:
    load = loader(store, "best_fit")
    steps = range(1, load.samples_per_epoch // 4 + 2)
    read = [
        (r.step, r.sample, r.window, r.tokens)
        for step in steps
        for r in trace_step(load, STEPS.choose(step)[0])
        if r.provenance["paper_id"] == "p5" and r.epoch == 0
    ]
    found = trace_paper(load, "p5", STEPS)
    assert read == [(r.step, r.sample, r.window, r.tokens) for r in found]
    assert sum(r.tokens for r in found) == 90


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=2, max_size=20), size=st.integers(1, 24))
def test_contiguous_windows_are_packed_from_the_stream(
    tmp_path_factory: pytest.TempPathFactory, tokenizer_file: Path, lengths: list[int], size: int
) -> None:
    store = make_store(tmp_path_factory.mktemp("w") / "s", tokenizer_file, lengths)
    windows = windows_of(store, size, "contiguous")
    for number in range(len(windows)):
        first = number * size
        packed = pack_window(store.tokens(first, first + size + 1), store.document_ends - first)
        for name in ("tokens", "labels", "start", "end"):
            assert np.array_equal(getattr(read(windows, number, size), name), getattr(packed, name)), name


@pytest.mark.parametrize("packing", ["contiguous", "best_fit"])
def test_a_micro_batch_is_its_windows_side_by_side(store: TokenStore, packing: str) -> None:
    windows = windows_of(store, 16, packing)
    whole = read_micro_batch([(windows, 3), (windows, 0), (windows, len(windows) - 1)], 16)
    apart = MicroBatch.from_windows([read(windows, number, 16) for number in (3, 0, len(windows) - 1)])
    for name in ("tokens", "labels", "positions"):
        assert getattr(whole, name).tolist() == getattr(apart, name).tolist(), name
    for name in ("start", "end"):
        assert getattr(whole.documents, name).tolist() == getattr(apart.documents, name).tolist(), name
    assert whole.num_loss_tokens == apart.num_loss_tokens
