"""Every setting that a resumed run changes is told, at any depth, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig, to_yaml
from megabiomed.runs.changes import changed_settings

RUN: dict[str, Any] = {"name": "a", "train": {"steps": 4}}


def config(**values: Any) -> RunConfig:
    return RunConfig.model_validate(RUN | values)


def changes(before: str, now: RunConfig) -> list[str]:
    return changed_settings(cast("Checkpoint", SimpleNamespace(config_text=before, path=Path("step"))), now)


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ({}, {}, []),
        ({"optimizer": {"lr_scales": {"embedding": 0.1}}}, {"optimizer": {"lr_scales": {"embedding": 0.1, "head": 0.5}}},
         ["optimizer.lr_scales.head: null -> 0.5"]),
        ({}, {"optimizer": {"lr_scales": {"norm": 2.0}}}, ["optimizer.lr_scales.norm: null -> 2.0"]),
        ({"optimizer": {"lr_scales": {"norm": 2.0}}}, {}, ["optimizer.lr_scales.norm: 2.0 -> null"]),
        ({}, {"lora": {"rank": 2}}, ["lora: null -> {'rank': 2, 'alpha': 32.0, 'dropout': 0.0, 'targets': None}"]),
        ({}, {"kernels": {"deterministic": True}, "seed": 5}, ["kernels.deterministic: False -> True", "seed: 1234 -> 5"]),
        ({}, {"train": {"steps": 4, "log_every": 7}, "data": {"prefetch": 1}, "run_dir": "b"}, []),
    ],
)  # fmt: skip
def test_changed_settings_are_told(before: dict[str, Any], now: dict[str, Any], told: list[str]) -> None:
    assert changes(to_yaml(config(**before)), config(**now)) == told


def test_keys_that_an_earlier_release_did_not_have_count_as_their_default() -> None:
    before = "name: a\ntrain: {steps: 4}\noptimizer: {lr: 2.0e-5}\n"
    assert changes(before, config()) == []
    assert changes(before, config(optimizer={"weight_decay": 0.1})) == ["optimizer.weight_decay: 0.0 -> 0.1"]


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "text"])
def test_a_stored_configuration_that_cannot_be_read_is_said(text: str) -> None:
    assert changes(text, config()) == ["settings: those of the checkpoint cannot be read, so changes are not shown"]
