"""Learning rate and run length are pure functions of the configuration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.runs.schedule import learning_rate, learning_rate_at, total_steps


def optimizer(**values: object) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"lr": 1.0, "warmup_steps": 10, **values})


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_warm_up_is_linear_and_reaches_the_peak(schedule: str) -> None:
    rates = [learning_rate(step, 100, optimizer(schedule=schedule)) for step in range(10)]
    assert rates == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert learning_rate(10, 100, optimizer(schedule=schedule)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("schedule", "middle", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)]
)
def test_decay_ends_at_the_floor(schedule: str, middle: float, last: float) -> None:
    config = optimizer(schedule=schedule, min_lr_ratio=0.1, warmup_steps=0)
    assert learning_rate(50, 101, config) == pytest.approx(middle)
    assert learning_rate(100, 101, config) == pytest.approx(last)
    assert learning_rate(500, 101, config) == pytest.approx(last)


def test_warm_up_ratio_counts_in_steps() -> None:
    config = OptimizerConfig(lr=1.0, warmup_ratio=0.03)
    assert learning_rate(2, 100, config) == pytest.approx(1.0)
    assert learning_rate(0, 100, config) == pytest.approx(1 / 3)


def test_epochs_become_whole_steps() -> None:
    values = {"name": "x", "data": {"global_batch_size": 192}, "train": {"epochs": 5}}
    # 26 billion tokens in windows of 2,048 are 12.7 M samples; 5 epochs of 192 are 330,607.1 steps, rounded up.
    assert total_steps(RunConfig.model_validate(values), 26_000_000_000 // 2048) == 330_608


def epochs_of(batch: int, epochs: float = 1.0) -> RunConfig:
    values = {"name": "x", "data": {"global_batch_size": batch}, "train": {"epochs": epochs}}
    return RunConfig.model_validate({**values, "optimizer": {"lr": 1.0, "warmup_ratio": 0.1}})


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 500), st.integers(0, 60))
def test_a_run_of_epochs_trains_the_samples_that_are_left_with_any_batch_size(
    before: int, now: int, samples: int, done: int
) -> None:
    done = min(done, math.ceil(samples / before))
    total = total_steps(epochs_of(now), samples, done, done * before)
    trained = done * before + (total - done) * now
    assert trained >= samples
    assert trained - samples < max(before, now)
    if before == now:
        assert total == total_steps(epochs_of(now), samples)


def test_the_rate_follows_the_samples_when_the_batch_size_changes() -> None:
    for done in (12, 40, 90):
        before = learning_rate_at(epochs_of(4), 400, done, done * 4)
        now = learning_rate_at(epochs_of(8), 400, done, done * 4)
        assert now == pytest.approx(before, abs=0.03)
    assert learning_rate_at(epochs_of(8), 400, 95, 392) == pytest.approx(0.0, abs=1e-3)


def test_warm_up_in_steps_is_not_repeated_by_a_larger_batch() -> None:
    config = epochs_of(8)
    config = config.model_copy(update={"optimizer": optimizer(warmup_steps=10)})
    assert learning_rate_at(config, 4000, 12, 48) == pytest.approx(1.0, abs=0.01)


def test_a_length_in_steps_stays_one_of_steps() -> None:
    values = {"name": "x", "data": {"global_batch_size": 8}, "train": {"steps": 50}}
    config = RunConfig.model_validate({**values, "optimizer": {"lr": 1.0, "warmup_steps": 0}})
    assert total_steps(config, 100, step=7, sample=28) == 50
    assert learning_rate_at(config, 100, 7, 28) == learning_rate(7, 50, config.optimizer)
