"""Schedules of continued pretraining: a decay is branched off, a finished run is warmed up again, groups have own rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.in_process import train_here
from support.runs import losses

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.logical import Box
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig
from megabiomed.ground.errors import CheckpointError, ConfigError
from megabiomed.model.rates import lr_factors

HEAD, DOWN = "lm_head.weight", "model.layers.0.mlp.down_proj.weight"


def values_of(corpus: Path) -> dict[str, Any]:
    return {
        "model": {"base": "tiny", "vocab_size": 600, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96},
        "data": {
            "train": [{"path": str(corpus / "train")}], "seq_length": 64, "micro_batch_size": 2, "global_batch_size": 4,
        },
        "optimizer": {"lr": 3e-3, "warmup_steps": 2, "schedule": "1-sqrt", "decay_steps": 2},
        "train": {"steps": 6, "precision": "fp32"}, "checkpoint": {"save_every": 0}, "tracking": {"mlflow": False},
    }  # fmt: skip


def rates(run: Path) -> dict[int, float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["train/lr"] for record in records if "train/lr" in record}


def test_a_decay_branched_from_a_longer_run_is_that_of_a_run_of_its_length(
    alone: None, corpus: Path, tmp_path: Path
) -> None:
    values = values_of(corpus)
    short = train_here(tmp_path, "short", values)
    long = train_here(tmp_path, "long", values, "train.steps=50", "train.stop_after=4")
    stable = locate(long).open().path
    branch = train_here(tmp_path, "branch", values, f"checkpoint.resume={stable}", "train.steps=6")
    assert rates(long) == {step: rate for step, rate in rates(short).items() if step <= 4}
    assert losses(long) | losses(branch) == losses(short)
    assert rates(branch) == {step: rate for step, rate in rates(short).items() if step > 4}
    first, second = (Checkpoint.open(run / "checkpoints/step_00000006") for run in (short, branch))
    for name, shape in first.shapes.items():
        for kind in ("param", "exp_avg", "exp_avg_sq"):
            box = Box.whole(name, shape)
            assert torch.equal(first.read(box, kind), second.read(box, kind))


def test_a_finished_run_is_warmed_up_again_on_other_data(alone: None, corpus: Path, tmp_path: Path) -> None:
    values = values_of(corpus)
    finished = locate(train_here(tmp_path, "first", values)).open().path
    resume = f"checkpoint.resume={finished}"
    values["data"]["train"] = [{"path": str(corpus / "validation")}]
    with pytest.raises(CheckpointError, match="the data order differs"):
        train_here(tmp_path, "refused", values, resume, "train.steps=12")
    again = ["train.first_step=6", "train.steps=12", resume]
    whole = train_here(tmp_path, "whole", values, *again)
    assert list(rates(whole).values()) == list(rates(tmp_path / "first").values())
    assert min(rates(whole)) == 7
    parts = train_here(tmp_path, "parts", values, *again, "train.stop_after=3")
    assert train_here(tmp_path, "parts", values, *again) == parts
    assert losses(parts) == losses(whole)
    assert locate(whole).open().trainer.samples_consumed == 6 * 4
    for overrides, message in (
        (["train.first_step=5", *again[1:]], "train.first_step is not the step of"),
        (again[:2], "of an earlier run, which is not named"),
    ):
        with pytest.raises(CheckpointError, match=message):
            train_here(tmp_path, "wrong", values, *overrides)


@pytest.mark.parametrize("engine", ["zero_stage=0", "zero_stage=1", "zero_stage=3", "engine=fsdp2"])
def test_a_group_of_tensors_moves_at_its_own_rate(alone: None, corpus: Path, tmp_path: Path, engine: str) -> None:
    values = values_of(corpus)
    values["optimizer"] |= {"warmup_steps": 0, "schedule": "constant", "eps": 1e-12, "clip_grad_norm": 0}
    values["train"]["steps"] = 1
    plain = train_here(tmp_path, "plain", values, f"parallel.{engine}")
    values["optimizer"]["lr_scales"] = {"lm_head.*": 0.25, "*.mlp.*": 2.0}
    scaled = train_here(tmp_path, "scaled", values, f"parallel.{engine}")
    before, after = (locate(run).open() for run in (plain, scaled))
    largest = {}
    for name, shape in before.shapes.items():
        box = Box.whole(name, shape)
        # Adam's first step is the rate itself, wherever there is a gradient: two rates differ by a fixed distance.
        largest[name] = float((before.read(box) - after.read(box)).abs().max())
    rate = next(iter(rates(plain).values()))
    assert largest.pop(HEAD) == pytest.approx(0.75 * rate, rel=1e-3)
    assert largest[DOWN] == pytest.approx(rate, rel=1e-3)
    assert {name for name, size in largest.items() if size} == {name for name in largest if ".mlp." in name}


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ({"lm_haed.*": 2.0}, "names no tensor that is trained: 'lm_haed"),
        ({"*.q_proj.*": 2.0}, "are one matrix in memory several factors: got .*k_proj"),
    ],
)
def test_factors_that_cannot_be_are_refused_before_the_start(scales: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        lr_factors(RunConfig.model_validate({"name": "x", "train": {"steps": 1}, "optimizer": {"lr_scales": scales}}))
