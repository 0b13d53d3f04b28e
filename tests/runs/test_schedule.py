"""Learning rate and run length are pure functions of the configuration."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megabiomed.config import OptimizerConfig, RunConfig
from megabiomed.runs.schedule import describe_schedule, learning_rate, learning_rate_at, total_steps


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


@pytest.mark.parametrize(
    ("shape", "half"), [("linear", 0.5), ("cosine", 0.5), ("1-sqrt", 1 - math.sqrt(0.5)), ("constant", 1.0)]
)
def test_the_rate_stays_at_its_peak_until_the_last_steps_of_the_decay(shape: str, half: float) -> None:
    """Warm-up, stable, decay (Hu et al. 2024; 1-sqrt: Haegele et al. 2024)."""
    config = optimizer(schedule=shape, decay_steps=20, min_lr_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(100)]
    assert rates[9:80] == [1.0] * 71
    assert rates[80:] == pytest.approx(sorted(rates[80:], reverse=True))
    assert rates[89] == pytest.approx(0.1 + 0.9 * half)
    assert rates[99] == pytest.approx(1.0 if shape == "constant" else 0.1)
    assert shape == "constant" or 0.1 < rates[80] < 1
    longer = [learning_rate(step, 300, config) for step in range(300)]
    assert longer[:80] == rates[:80]
    assert longer[280:] == rates[80:]


def test_a_decay_that_is_longer_than_the_run_begins_after_warm_up() -> None:
    rates = [learning_rate(step, 30, optimizer(schedule="linear", decay_steps=50)) for step in range(30)]
    assert rates[9] == 1.0
    assert rates[10] == pytest.approx(0.95)
    assert rates[29] == 0.0
    assert [learning_rate(step, 30, optimizer(decay_steps=0)) for step in range(10, 30)] == [1.0] * 20


def test_the_infinite_schedule_falls_to_a_rate_that_it_keeps() -> None:
    """Ibrahim et al. 2024: warm-up, cooldown to a constant rate, and a decay whenever one is wanted."""
    config = optimizer(cooldown_steps=40, stable_ratio=0.4, decay_steps=20, min_lr_ratio=0.1, schedule="linear")
    rates = [learning_rate(step, 200, config) for step in range(200)]
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.7)
    assert rates[50:180] == [0.4] * 130
    assert rates[189] == pytest.approx(0.25)
    assert rates[199] == pytest.approx(0.1)


@given(st.sampled_from(["cosine", "linear", "1-sqrt"]), st.integers(1, 60), st.integers(0, 80), st.integers(0, 80))
def test_no_schedule_leaves_the_range_between_its_last_rate_and_its_peak(
    shape: str, total: int, decay: int, cooldown: int
) -> None:
    held = {"cooldown_steps": cooldown, "stable_ratio": 0.5} if cooldown else {}
    config = optimizer(schedule=shape, decay_steps=decay, min_lr_ratio=0.2, warmup_steps=0, **held)
    rates = [learning_rate(step, total, config) for step in range(total + 5)]
    assert all(0.2 <= rate <= 1 for rate in rates)
    assert rates == sorted(rates, reverse=True)


def test_a_run_that_begins_later_has_its_own_warm_up_and_decay() -> None:
    for train in ({"steps": 150}, {"epochs": 1.0}):
        values = {"name": "x", "data": {"global_batch_size": 4}, "train": {**train, "first_step": 100}}
        config = RunConfig.model_validate({**values, "optimizer": {"lr": 1.0, "warmup_steps": 10, "decay_steps": 5}})
        assert total_steps(config, 200) == 150
        rates = [learning_rate_at(config, 200, 100 + step, 4 * step) for step in range(50)]
        assert rates == pytest.approx([learning_rate(step, 50, config.optimizer) for step in range(50)])
    line = describe_schedule(config, 150)
    assert line == ("learning rate: 0.1 at step 101, 1 at step 111, 0.905 at step 146, 0 at step 150 (cosine decay)")


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("optimizer", {"stable_ratio": 0.5}, "need decay_steps"),
        ("optimizer", {"decay_steps": 5, "cooldown_steps": 5}, "belong together"),
        ("optimizer", {"decay_steps": 5, "cooldown_steps": 5, "stable_ratio": 0.1, "min_lr_ratio": 0.2}, "is above"),
        ("train", {"steps": 7, "first_step": 7}, "set more than first_step 7"),
    ],
)
def test_phases_that_do_not_fit_are_refused(section: str, values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"name": "x", "train": {"steps": 9}, section: values})
