"""The plan is balanced and the same everywhere; a message names the largest items."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest

from megabiomed.config.align import AlignConfig
from megabiomed.encoders.esm2 import ESM2
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.schedule import EncoderItem, busiest, check_ranks, deal, imbalance, largest, longest_first
from megabiomed.ground.errors import TopologyError
from megabiomed.processes.hang import watched


def test_real_lengths_are_balanced_to_five_percent() -> None:
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(5.7, 0.6, 64).astype(int) + 2, 1024)
    config = Esm2Config(num_layers=36, hidden_size=2560, num_attention_heads=40)
    costs = [ESM2.flops(config, int(n)) for n in lengths]
    plan = longest_first(costs, 8)
    assert imbalance(costs, plan, 8) <= 1.05
    assert imbalance(costs, [n % 8 for n in range(64)], 8) > 1.2
    assert plan == longest_first(list(costs), 8)


def test_only_chosen_ranks_encode() -> None:
    items = [EncoderItem("protein", 0, n, 10 * n + 3, 4, 0, n) for n in range(12)]
    align = {"stages": [{"name": "s", "steps": 1}], "encoder_ranks": [1, 3]}
    owners = deal(items, AlignConfig.model_validate(align), 4)
    assert set(owners) == {1, 3}
    check_ranks(AlignConfig.model_validate(align), 4)
    with pytest.raises(TopologyError, match="in a world of 2"):
        check_ranks(AlignConfig.model_validate(align), 2)


def test_one_giant_and_nothing_at_all() -> None:
    assert longest_first([5.0], 4) == [0]
    assert longest_first([], 4) == []


def test_a_slow_phase_names_its_largest_items(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not capsys: it reads and empties its buffer in two steps, and a line that another thread writes between them is lost.
    told = io.StringIO()
    monkeypatch.setattr(sys, "stderr", told)
    items = [EncoderItem("protein", 0, 0, 9, 9, 0, sample=3), EncoderItem("protein", 0, 0, 1024, 1024, 0, sample=17)]
    with watched(0.01, lambda: f"rank 3 is in encode protein: {largest(items)}"):
        deadline = time.monotonic() + 60
        while not told.getvalue().endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "rank 3 is in encode protein" in told.getvalue()
    assert "sample 17 protein of 1024 rows, sample 3 protein of 9 rows" in told.getvalue()


def test_the_busiest_rank_is_measured_among_those_that_encode() -> None:
    align = AlignConfig.model_validate({"stages": [{"name": "s", "steps": 1}], "encoder_ranks": [1, 3]})
    items = [EncoderItem("protein", 0, number, 100, 1, 0, 0) for number in range(4)]
    assert busiest(items, align, [1, 3, 1, 3], 4) == 1.0
    assert busiest(items, align, [1, 1, 1, 3], 4) == 1.5
    assert busiest([], align, [], 4) == 1.0
