"""Steps that are not finite and spikes: what is noticed, and what each policy makes of the run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.hooks import step, training
from support.in_process import replay_of, train_here
from support.runs import events, losses

from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import Health
from megabiomed.config import HealthConfig, RunConfig
from megabiomed.data.loader import SampleLoader, StepBatch
from megabiomed.engine.build import StepResult
from megabiomed.engine.gate import UpdateGate
from megabiomed.engine.gradient_norms import GradientNorms
from megabiomed.ground.errors import CheckpointError, NonFiniteError, SpikeError
from megabiomed.runs.health import LEAST_DEVIATION, RunHealth, Spread
from megabiomed.runs.history import run_steps
from megabiomed.runs.hooks.health import HealthCheck
from megabiomed.runs.kinds import read_run
from megabiomed.runs.language_model import LanguageModel
from megabiomed.runs.replay.start import ReplayOptions, judge, prepare
from megabiomed.runs.training import RewindAsked

SETTINGS = HealthConfig(spike="skip", window=8, sigma=4)


def watched(values: list[float], settings: HealthConfig = SETTINGS) -> list[int]:
    """Numbers of the steps with a finding, when every finding but a warning leaves the step out."""
    health, found = RunHealth(), []
    for number, value in enumerate(values):
        if health.judge(value, 1.0, settings) is None:
            health.count(value, 1.0, settings)
        else:
            found.append(number)
    return found


def test_the_detector_finds_what_numpy_finds() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(5.0, 0.2, 400)
    values[rng.choice(400, 30, replace=False)] += rng.uniform(0.5, 3.0, 30)
    held: list[float] = []
    expected = []
    for number, value in enumerate(values.tolist()):
        window = np.array(held[-8:])
        if len(held) >= 8 and value > window.mean() + 4 * max(window.std(ddof=1), LEAST_DEVIATION * window.mean()):
            expected.append(number)
        else:
            held.append(value)
    assert watched(values.tolist()) == expected
    assert len(expected) > 10


def test_gradient_norms_are_judged_by_their_logarithms() -> None:
    rng = np.random.default_rng(3)
    norms = rng.lognormal(0.0, 0.3, 2000)
    norms[[500, 1500]] *= 12.0
    health, found = RunHealth(), []
    for number, norm in enumerate(norms.tolist()):
        limits = health.limits(HealthConfig(spike="skip"))
        if number >= 128:
            window = np.log(health.grad_norms)
            assert limits.grad_norm == pytest.approx(np.exp(window.mean() + 6 * window.std(ddof=1)))
        if health.judge(1.0, norm, HealthConfig(spike="skip")) is None:
            health.count(1.0, norm, HealthConfig(spike="skip"))
        else:
            found.append(number)
    assert found == [500, 1500]
    assert Spread.of([0.0, 0.0], of_logarithms=True).limit(6) < 1e-290  # a gradient of zeros is no error


def test_no_alarm_without_a_full_window_of_applied_steps_at_equal_values_or_at_falling_ones() -> None:
    assert watched([1.0] * 7 + [1e9]) == []
    assert watched([1.0] * 8 + [1e9]) == [8]
    assert watched([3.0] * 40 + [3.0 * (1 + 3 * LEAST_DEVIATION)] * 40) == []
    assert watched([10.0 / (1 + n) for n in range(200)]) == []


def test_what_was_left_out_is_in_no_statistics() -> None:
    """A NaN would make every limit NaN, and a spike would hide the next one."""
    noise = np.random.default_rng(1).normal(2.0, 0.01, 60).tolist()
    bad = {20: math.nan, 30: 90.0, 31: 3.0, 40: math.inf}
    assert watched([bad.get(number, value) for number, value in enumerate(noise)]) == list(bad)


def test_a_restored_window_decides_as_the_one_that_was_saved() -> None:
    rng = np.random.default_rng(2)
    health = RunHealth(skipped_steps=3, spent=[4, 9])
    for value in rng.lognormal(0, 0.3, 50).tolist():
        health.count(value, value / 3, SETTINGS)
    stored = Health.model_validate_json(health.record().model_dump_json(), strict=True)
    assert RunHealth.of(stored) == health
    assert RunHealth.of(stored).limits(SETTINGS) == health.limits(SETTINGS)
    assert len(stored.losses) == SETTINGS.window


@pytest.mark.parametrize("distribution", ["normal", "lognormal"])
def test_20000_clean_steps_give_no_alarm(distribution: str) -> None:
    rng = np.random.default_rng(5)
    trend = 2.0 + 8.0 / np.sqrt(1 + np.arange(20_000) / 50)
    noise = rng.normal(0, 0.03, 20_000) if distribution == "normal" else rng.lognormal(0, 0.1, 20_000)
    assert watched((trend + noise).tolist(), HealthConfig(spike="skip")) == []


def held_training(**health: Any) -> Any:
    found = training(2)
    settings = HealthConfig.model_validate(health)
    found.config = found.config.model_copy(update={"health": settings})
    found.module = SimpleNamespace(engine=SimpleNamespace(gate=UpdateGate(), gradient_norms=GradientNorms()))
    found.position.health = RunHealth(losses=[1.0, 1.1] * 4, grad_norms=[2.0, 2.1] * 4)
    return found


@pytest.mark.parametrize(
    ("health", "error", "text"),
    [({}, NonFiniteError, "set health.non_finite=skip"), ({"non_finite": "rewind"}, RewindAsked, ""),
     ({"non_finite": "skip", "budget": 2}, None, "")],
)  # fmt: skip
def test_a_policy_stops_skips_or_rewinds(health: dict[str, Any], error: type[Exception] | None, text: str) -> None:
    held, bad = held_training(**health), step(math.nan, 1.0)
    check = HealthCheck()
    if error is not None:
        with pytest.raises(error, match=text):
            check.check_step(held, bad)
        return
    for _ in range(2):
        check.check_step(held, bad)
    assert held.reporter[1] == ("remark", "non_finite: loss nan, grad_norm 1.0 (update not applied)")
    with pytest.raises(NonFiniteError, match=r"skipped or rewound 2 times within 128 steps.*raise health.budget"):
        check.check_step(held, bad)


def test_a_spike_is_told_with_everything_that_led_to_it() -> None:
    held = held_training(spike="warn", window=8)
    HealthCheck().before_step(held, step(1, 1).batch)
    assert held.module.engine.gate.limits is None  # nothing is decided in the step, so nothing is agreed on
    HealthCheck().check_step(held, step(1.1, 9.0))
    told = dict(held.reporter[0][4:])
    assert held.reporter[0][:3] == ("health", 3, "spike")
    assert told["policy"] == "warn"
    assert told["samples"] == [14, 2]
    assert told["windows"] == [[0, 0, 7], [0, 0, 8]]
    assert told["sigmas"] > told["sigma"] == 6
    assert told["grad_norm"] == 9.0 > told["grad_norm_limit"]
    assert "grad_norm 9 is" in held.reporter[1][1]
    assert held.position.health.spent == []
    with pytest.raises(SpikeError, match="step 3 is a spike: got grad_norm 9 is"):
        HealthCheck().check_step(held_training(spike="stop", window=8), step(1.1, 9.0))


def test_the_budget_counts_what_lies_within_a_window() -> None:
    health, settings = RunHealth(), HealthConfig(window=10, budget=2)
    assert [health.spend(at, settings) for at in (1, 5, 12, 16, 17)] == [True, True, True, True, False]
    assert health.spent == [12, 16, 17]


def test_a_rewind_without_checkpoints_is_refused_when_the_configuration_is_read() -> None:
    values = {"name": "t", "train": {"steps": 9}, "checkpoint": {"save_every": 0}}
    RunConfig.model_validate(values | {"health": {"spike": "skip"}})
    with pytest.raises(ValueError, match=r"health\.spike is rewind, and the run saves no checkpoint on its way"):
        RunConfig.model_validate(values | {"health": {"spike": "rewind"}})


BATCH = 4
NAN_AT, SPIKE_AT = 12, 36  # global samples: the batches of steps 4 and 10
REWOUND = 32  # the first sample behind the checkpoint of step 8


@pytest.fixture
def trained(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: None) -> Any:
    """Train in this process on data in which one batch gives NaN and one a loss a thousand times too large."""
    original = LanguageModel.train_step

    def train_step(self: LanguageModel, batch: StepBatch, lr: float) -> StepResult:
        run = self.engine.pipeline.run
        factor = {NAN_AT: math.nan, SPIKE_AT: 1e3}.get(batch.first_sample, 1.0)
        with monkeypatch.context() as patch:
            patch.setattr(self.engine.pipeline, "run", lambda batches, scale: run(batches, scale * factor))
            return original(self, batch, lr)

    monkeypatch.setattr(LanguageModel, "train_step", train_step)
    values = {
        "model": {"base": "tiny", "vocab_size": 600, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16},
        "data": {"train": [{"path": str(corpus / "train")}], "seq_length": 16, "micro_batch_size": 4,
                 "global_batch_size": BATCH},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2}, "train": {"steps": 12, "precision": "fp32"},
        "parallel": {"zero_stage": 1}, "checkpoint": {"save_every": 4}, "tracking": {"kind": None},
        "health": {"non_finite": "skip", "spike": "skip", "window": 8, "sigma": 20},
    }  # fmt: skip

    def run(name: str, *overrides: str) -> Path:
        return train_here(tmp_path, name, values, *overrides)

    return run


def state(folder: Path, at: int = 12) -> tuple[Any, dict[str, Any]]:
    """What a checkpoint tells of the run, and all its tensors."""
    checkpoint = Checkpoint.open(folder / "checkpoints" / f"step_{at:08d}")
    tensors = {
        (name, kind): checkpoint.read(Box.whole(name, shape), kind).numpy().tobytes()
        for name, shape in checkpoint.shapes.items() for kind in checkpoint.manifest.kinds()
    }  # fmt: skip
    return checkpoint.trainer, tensors


def same(one: Path, other: Path) -> bool:
    """Whether two runs end with the same weights, moments, position, hash and window."""
    (told, tensors), (also, as_well) = state(one), state(other)
    assert told == also
    return tensors == as_well


def test_skips_are_decided_alike_in_one_go_and_after_a_resume(trained: Any) -> None:
    whole = trained("whole")
    trained("cut", "train.stop_after=9")
    cut = trained("cut")
    assert same(whole, cut)
    told, _ = state(whole)
    assert told.data.skipped == [(NAN_AT, BATCH), (SPIKE_AT, BATCH)]
    assert told.data.next_sample == 12 * BATCH
    assert told.health.skipped_steps == 2
    assert told.health.spent == [4, 10]
    found = [event for event in events(whole) if event["event"] in ("non_finite", "spike")]
    assert [(event["event"], event["step"], event["policy"]) for event in found] == [
        ("non_finite", 4, "skip"), ("spike", 10, "skip"),
    ]  # fmt: skip
    assert found[1]["samples"] == [SPIKE_AT, BATCH]
    records = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "health/spike" in record] == [10]
    assert len(losses(whole)) == 12  # a skipped step is a step: its rate and its samples are used up
    kept = [json.loads(line) for line in (whole / "gradients.jsonl").read_text().splitlines()]
    assert [(line["step"], line["sample"]) for line in kept] == [(4, NAN_AT), (10, SPIKE_AT)]
    assert set(kept[0]["norms"].values()) == {"not finite"}
    clean = trained("warned", "health.spike=warn", "health.non_finite=skip")
    assert state(clean)[0].data.ids_hash != told.data.ids_hash


def test_a_step_behind_a_skipped_one_is_replayed_with_the_same_bits(trained: Any, tmp_path: Path) -> None:
    prepared = prepare(trained("whole"), ReplayOptions(12), tmp_path)
    assert [(each.step, each.applied) for each in prepared.plan.steps] == [
        (9, True),
        (10, False),
        (11, True),
        (12, True),
    ]
    found = replay_of(prepared).compute()
    assert found is not None
    result = judge(prepared, found)
    assert (result["verdict"], result["recorded_in"]) == ("equal", ["metrics.jsonl"])


def test_a_rewind_is_the_same_in_one_go_and_after_a_resume(trained: Any, tmp_path: Path) -> None:
    rewound = trained("rewound", "health.spike=rewind")
    trained("cut", "health.spike=rewind", "train.stop_after=9")
    assert same(rewound, trained("cut", "health.spike=rewind"))
    told, _ = state(rewound)
    assert told.data.skipped == [(NAN_AT, BATCH), (REWOUND, SPIKE_AT + BATCH - REWOUND)]
    assert told.data.next_sample == SPIKE_AT + BATCH + 4 * BATCH
    for folder in (rewound, tmp_path / "cut"):
        steps = run_steps(read_run(str(folder / "config.yaml"), []))
        assert [steps.attempts(step)[-1].first for step in range(1, 13)] == [*range(0, 32, 4), *range(40, 56, 4)]
        assert [(held.first, held.stands) for held in steps.attempts(9)] == [(REWOUND, False), (40, True)]
    (event,) = (event for event in events(rewound) if event["event"] == "rewind")
    assert (event["step"], event["to_step"], event["skipped"]) == (10, 8, [REWOUND, 8])


@pytest.mark.parametrize(
    "words",
    [["parallel.zero_stage=2", "parallel.offload_optimizer=true", "train.precision=bf16"],
     ["parallel.zero_stage=3", "train.precision=bf16"], ["parallel.engine=fsdp2", "lora={rank: 4}"]],
)  # fmt: skip
def test_a_rewind_goes_on_as_a_run_that_never_read_the_samples(
    words: list[str], trained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tensors = state(trained("rewound", "health.spike=rewind", *words))
    batch_at = SampleLoader.batch_at
    passed = lambda self, at: batch_at(self, at if at < REWOUND else at + 8)  # noqa: E731
    monkeypatch.setattr(SampleLoader, "batch_at", passed)
    assert state(trained("never", "health.spike=stop", *words))[1] == tensors


def test_a_run_without_a_checkpoint_cannot_rewind(trained: Any) -> None:
    with pytest.raises(CheckpointError, match="step 4 cannot be rewound: got no checkpoint of the run yet"):
        trained("early", "health.non_finite=rewind", "checkpoint.save_every=5")
