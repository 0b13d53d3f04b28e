"""Learning rate and run length are pure functions of the configuration."""

from __future__ import annotations

import pytest

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.runs.schedule import learning_rate, total_steps


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
