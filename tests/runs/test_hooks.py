"""Hooks: when they are called, and what each of them does there."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hooks import Told, step, training
from support.runs import events
from support.spawn import run_ranks

from megabiomed.checkpoint.state import Health
from megabiomed.config.time_limits import LONGEST_S
from megabiomed.data.progress import DataProgress
from megabiomed.engine.gradient_norms import GradientNorms
from megabiomed.ground.errors import NonFiniteError
from megabiomed.processes.signals import Request
from megabiomed.runs.hooks import standard_hooks
from megabiomed.runs.hooks.encoder_balance import EncoderBalance
from megabiomed.runs.hooks.hang import MEASURED, Heartbeat
from megabiomed.runs.hooks.health import HealthCheck
from megabiomed.runs.hooks.saving import Saving
from megabiomed.runs.hooks.validation import Validation
from megabiomed.runs.training import Ending, LeaveAsked

WORKER = str(Path(__file__).with_name("hooks_worker.py"))


def test_each_point_is_called_where_the_base_class_says(run_file: Path, tmp_path: Path) -> None:
    calls = tmp_path / "calls.json"
    words = [f"run_dir={tmp_path / 'r'}", "parallel.tensor_parallel_size=1", "train.steps=3"]
    of_step = lambda n: [["before_step", n], ["check_step", n], ["after_step", n + 1]]  # noqa: E731
    run_ranks(1, [WORKER, str(run_file), str(calls), *words, "train.stop_after=2"], tmp_path / "one")
    assert json.loads(calls.read_text()) == [
        ["at_start", 0], *of_step(0), ["between_steps", 1], *of_step(1), ["on_leave", 2], ["at_end", 2],
    ]  # fmt: skip
    run_ranks(1, [WORKER, str(run_file), str(calls), *words], tmp_path / "two")
    assert json.loads(calls.read_text()) == [["at_start", 2], *of_step(2), ["on_leave", 3], ["at_end", 3]]
    first = next(event for event in events(tmp_path / "r") if event["event"] == "first_step")
    assert list(first["phases"]) == [
        "imports",
        "groups",
        "data",
        "kernels",
        "checkpoint",
        "model",
        "weights",
        "first step",
    ]
    assert first["seconds"] == pytest.approx(sum(first["phases"].values()), abs=0.01)
    told = [event["event"] for event in events(tmp_path / "r")]
    assert told == ["start", "first_step", "save", "stopped", "resume", "first_step", "save", "finished"]


def test_the_order_of_the_hooks_is_declared_in_one_place() -> None:
    names = [type(hook).__name__ for hook in standard_hooks(None)]
    assert names == [
        "HealthCheck",
        "ReplicaCheck",
        "Validation",
        "Evaluation",
        "Saving",
        "Heartbeat",
        "Profile",
        "FirstStep",
        "SlowRanks",
        "GpuHealth",
        "EncoderBalance",
        "Reports",
    ]


@given(st.floats(), st.floats())
def test_a_step_counts_when_loss_and_norm_are_numbers(loss: float, grad_norm: float) -> None:
    held = training(2, module=SimpleNamespace(engine=SimpleNamespace(gradient_norms=GradientNorms())))
    if math.isfinite(loss) and math.isfinite(grad_norm):
        HealthCheck().check_step(held, step(loss, grad_norm))
        assert not held.reporter
    else:
        with pytest.raises(NonFiniteError, match=r"step 3 is not finite: .* the batch begins at global sample 14"):
            HealthCheck().check_step(held, step(loss, grad_norm))
        assert held.reporter[0][:3] == ("health", 3, "non_finite")


def test_validation_is_measured_before_a_fresh_run_at_intervals_and_at_the_end_of_a_finished_one(
    tmp_path: Path,
) -> None:
    found = {"validation_loss": (30.0, 10), "validation_loss_wrong_items": (35.0, 10)}
    module = SimpleNamespace(held_out_losses=lambda tick: found)

    def measured(step: int, point: str, *values: Any) -> bool:
        held = training(step, tmp_path, module=module)
        getattr(Validation(), point)(held, *values)
        if held.reporter:
            assert held.guard == [("beat", "validation", step)]
            assert held.reporter == [
                ("validation", step, 3.0, 10), ("say", "validation_loss_wrong_items: 3.5000 gap: +0.5000")
            ]  # fmt: skip
        return bool(held.reporter)

    # A run that was stopped where a measurement was due has none of that step yet.
    assert [measured(step, "at_start") for step in (0, 1, 2)] == [True, False, True]
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "validation/loss": 3.0}\n{"step": 4, "train/loss": 1.0}\n')
    assert [measured(step, "at_start") for step in (2, 4)] == [False, True]
    assert [measured(step, "between_steps", Request.NONE) for step in (1, 2, 3, 4)] == [False, True, False, True]
    outcomes = ("finished", "stopped", "ended")
    assert [measured(9, "at_end", Ending(outcome)) for outcome in outcomes] == [True, False, False]


@pytest.mark.parametrize(
    ("step", "point", "values", "leaves"),
    [(4, "between_steps", [Request.NONE], True), (4, "at_start", [], True), (0, "at_start", [], False),
     (9, "at_end", [Ending("finished")], False)],
)  # fmt: skip
def test_a_request_to_leave_breaks_a_measurement_off_between_its_batches(
    step: int, point: str, values: list[Any], leaves: bool, tmp_path: Path
) -> None:
    """Not before the first step, when there is nothing to save, and not after the last, when everything is saved."""
    batches: list[int] = []

    def held_out(tick: Any) -> dict[str, tuple[float, int]]:
        for number in range(9):
            batches.append(number)
            tick()
        return {"validation_loss": (30.0, 10)}

    answers = iter([Request.NONE, Request.SAVE, Request.END])
    held = training(step, tmp_path, module=SimpleNamespace(held_out_losses=held_out), leave=lambda: next(answers))
    if leaves:
        with pytest.raises(LeaveAsked) as request:
            getattr(Validation(), point)(held, *values)
        assert request.value.ending == "ended"
    else:
        getattr(Validation(), point)(held, *values)
    assert batches == [0, 1, 2]
    assert not [told for told in held.reporter if told[0] == "validation"]


@pytest.mark.parametrize(("due", "asked", "saves"), [
    (False, Request.NONE, False), (True, Request.NONE, True), (False, Request.SAVE, True), (True, Request.SAVE, True),
])  # fmt: skip
def test_a_save_is_made_when_it_is_due_or_asked_for_and_all_ranks_ask_whether_it_is(
    due: bool, asked: Request, saves: bool
) -> None:
    asked_for: list[int] = []
    kept = Told()
    checkpoints = SimpleNamespace(
        due=lambda step: asked_for.append(step) or due, save=kept.save, committed=list, failures=list
    )
    held = training(4, checkpoints=checkpoints)
    Saving().between_steps(held, asked)
    assert asked_for == [4]
    assert kept == ([("save", 4, DataProgress(), 0, False, Health())] if saves else [])
    assert [told[0] for told in held.reporter] == (["start_clock"] if saves else [])


def test_a_save_is_an_event_only_once_its_checkpoint_is_committed() -> None:
    commits: list[list[int]] = [[], [], [4]]
    checkpoints = SimpleNamespace(
        due=lambda step: step == 4, save=lambda *_: True, committed=lambda: commits.pop(0), failures=list
    )
    held, saving = training(4, checkpoints=checkpoints), Saving()
    saving.between_steps(held, Request.NONE)
    held.step = 5
    saving.between_steps(held, Request.NONE)
    assert [told[0] for told in held.reporter] == ["start_clock"]
    held.step = 6
    saving.between_steps(held, Request.NONE)
    assert held.reporter[1][:3] == ("event", "save", ("step", 4))


def test_the_limit_of_the_set_up_holds_until_the_first_step_is_done() -> None:
    held, heart = training(4), Heartbeat()
    heart.before_step(held, step(1, 1).batch)
    assert held.guard == []
    heart.after_step(held, step(1, 1))
    heart.before_step(held, step(1, 1).batch)
    assert held.guard == [("set_limit", LONGEST_S), ("beat", "training step", 5, [[0, 0, 7], [0, 0, 8]])]


def test_after_some_steps_the_guard_and_the_collectives_get_the_limits_of_the_slowest(
    alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, heart = training(4), Heartbeat()
    times = itertools.count(0.0, 40.0)
    given: list[float] = []
    monkeypatch.setattr("megabiomed.runs.hooks.hang.time.monotonic", lambda: next(times))
    monkeypatch.setattr("megabiomed.processes.platform.limit_collectives", given.append)
    for _ in range(MEASURED + 4):
        heart.before_step(held, step(1, 1).batch)
        heart.after_step(held, step(1, 1))
    assert [told for told in held.guard if told[0] == "set_limit"] == [("set_limit", LONGEST_S), ("set_limit", 800.0)]
    assert given == [960.0]
    assert "speaks after 800 s, collectives give up after 960 s" in held.reporter[0][1]


def test_before_a_run_leaves_it_waits_for_its_last_save() -> None:
    held = training(4)
    held.checkpoints.committed = lambda: held.checkpoints.append(("committed",)) or [4]
    held.checkpoints.failures = list
    held.checkpoints.save = lambda *values: held.checkpoints.append(("save", *values)) or True
    Saving().on_leave(held)
    assert [told[0] for told in held.guard] == ["beat"]
    assert [told[0] for told in held.checkpoints] == ["save", "wait", "committed"]
    assert [told[:2] for told in held.reporter] == [("event", "save")]


def test_the_balance_of_encoders_is_that_of_the_steps_of_a_window() -> None:
    engine = SimpleNamespace(busiest=1.0)
    hook, run = EncoderBalance(), training(0, module=SimpleNamespace(engine=engine))
    run.config = run.config.model_copy(update={"train": run.config.train.model_copy(update={"log_every": 10})})
    for number in range(1, 21):
        engine.busiest = 1.0 + (number == 7)
        hook.after_step(run, SimpleNamespace(number=number))  # type: ignore[arg-type]
    assert run.reporter == [
        ("add", {"encoders/busiest_mean": 1.1, "encoders/busiest_worst": 2.0}),
        ("add", {"encoders/busiest_mean": 1.0, "encoders/busiest_worst": 1.0}),
    ]
    EncoderBalance().after_step(training(0), SimpleNamespace(number=10))  # type: ignore[arg-type]
