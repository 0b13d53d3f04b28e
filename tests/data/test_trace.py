"""The trace agrees with what the loader reads: forwards by step, backwards by paper."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.stores import make_store

from megabiomed.config import DataConfig
from megabiomed.data.loader import TrainLoader
from megabiomed.data.steps import RunSteps, Stretch
from megabiomed.data.store import TokenStore
from megabiomed.data.trace import trace_paper, trace_step
from megabiomed.ground.errors import DataError

STEPS = RunSteps([Stretch(0, 0, 4)])


@pytest.fixture
def loader(store: TokenStore) -> TrainLoader:
    return TrainLoader([store], [1.0], DataConfig(seq_length=16, global_batch_size=4, micro_batch_size=2), seed=3)


def test_a_step_names_the_papers_whose_tokens_are_in_its_batch(loader: TrainLoader, store: TokenStore) -> None:
    for step in (1, 2, 20, 300):
        readings = list(trace_step(loader, STEPS.choose(step)[0]))
        ids = loader.batch_at((step - 1) * 4).sample_ids.tolist()
        assert sorted({(r.source, r.epoch, r.window) for r in readings}) == sorted(map(tuple, ids))
        assert sum(r.tokens for r in readings) == 4 * 16
        for reading in readings:
            start = reading.window * 16
            owners = {store.paper_id(store.document_of(position)) for position in range(start, start + 16)}
            assert reading.provenance["paper_id"] in owners


def test_a_paper_is_found_at_exactly_the_steps_that_read_it(loader: TrainLoader, store: TokenStore) -> None:
    steps = range(1, 2 * loader.samples_per_epoch // 4 + 1)
    read = [
        (r.step, r.sample, r.window)
        for step in steps
        for r in trace_step(loader, STEPS.choose(step)[0])
        if r.provenance["paper_id"] == "p5"
    ]
    found = [(r.step, r.sample, r.window) for r in trace_paper(loader, "p5", STEPS, epochs=2)]
    assert sorted(read) == [entry for entry in found if entry[0] <= steps[-1]]
    assert sum(r.tokens for r in trace_paper(loader, "p5", STEPS)) == 90
    with pytest.raises(DataError, match="no training store of this run has"):
        trace_paper(loader, "p99999", STEPS)


def test_a_paper_that_fills_no_window_is_never_read_and_the_trace_says_so(tmp_path: Path, tokenizer_file: Path) -> None:
    data = DataConfig(seq_length=16, global_batch_size=1, micro_batch_size=1)
    cut = TrainLoader([make_store(tmp_path / "s", tokenizer_file, [40, 5])], [1.0], data, seed=3)
    with pytest.raises(DataError, match=r"the paper p1 is never read: .*; set data.packing=best_fit"):
        trace_paper(cut, "p1", STEPS)


def test_after_a_rewind_a_step_has_other_papers_and_the_passed_over_samples_none(loader: TrainLoader) -> None:
    """Steps 1 to 6; back to step 2 and on behind sample 23."""
    steps = RunSteps([Stretch(0, 0, 4, 6), Stretch(2, 24, 4)])
    for step in range(1, 40):
        samples, _ = steps.choose(step)
        assert {r.sample for r in trace_step(loader, samples)} == set(range(samples.first, samples.end))
        for reading in trace_step(loader, samples):
            back = trace_paper(loader, reading.provenance["paper_id"], steps)
            assert reading.epoch or (step, reading.sample, True) in {(r.step, r.sample, r.stands) for r in back}
    assert steps.choose(3)[0].first == 24
    refused = list(trace_step(loader, steps.choose(3, 1)[0]))
    assert {(r.sample, r.stands) for r in refused} == {(number, False) for number in range(8, 12)}


def test_the_command_traces_both_ways(run_file: Path, command: Callable[..., Any], corpus: Path) -> None:
    rows = [json.loads(line) for line in command("data", "trace", run_file, "--step", 2, "--json").stdout.splitlines()]
    paper = rows[0]["provenance"]["paper_id"]
    back = command("data", "trace", run_file, "--paper", paper).stdout
    assert f"step: 2 sample: {rows[0]['sample']} " in back
    assert "pass either --step" in command("data", "trace", run_file, code=2).stderr
