"""`megabiomed checkpoint` shows, verifies, imports and exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from megabiomed.checkpoint.cli import checkpoint_app
from megabiomed.checkpoint.sources import SeededInit
from megabiomed.errors import CheckpointError, UserError
from megabiomed.model.llama.convert import export_hf


@pytest.fixture
def run_folder(tmp_path: Path, world: Any) -> Path:
    ranks = world.cut_world(world.MODEL, 2, [0.5])
    world.fill(ranks, world.random_truth())
    for step in (10, 20):
        world.save_world(tmp_path / "run" / "checkpoints", step, ranks, world.state())
    return tmp_path / "run"


def call(*arguments: object, fails: bool = False) -> str:
    result = CliRunner().invoke(checkpoint_app, [str(argument) for argument in arguments])
    if fails:
        assert isinstance(result.exception, UserError), result.output
        return f"{result.output}{result.exception}"
    assert result.exception is None, result.output
    return result.output


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_inspect_lists_a_run_newest_first_with_reasons(run_folder: Path) -> None:
    (run_folder / "checkpoints" / "step_00000020" / "trainer.json").unlink()
    newest, older = json.loads(call("inspect", run_folder, "--json"))
    assert (newest["complete"], "trainer.json is missing" in newest["reason"]) == (False, True)
    assert (older["complete"], older["step"], older["tokens"]) == (True, 10, 4096)
    assert older["topology"] == {"ranks": 4, "tp": 2, "dp": 2}
    assert older["optimizer_bytes"] > older["model_bytes"] > older["parameters"] * 4
    assert older["kinds"] == ["exp_avg", "exp_avg_sq", "param"]


def test_inspect_prints_a_table(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    table = call("inspect", run_folder / "checkpoints" / "step_00000010")
    assert re.search(r"step_00000010 .*yes .*10 .*4,096 .*ranks=4 tp=2 dp=2", table)


def test_verify_finds_a_flipped_bit(run_folder: Path) -> None:
    assert call("verify", run_folder).count("every file is as it was written") == 2
    flip(run_folder / "checkpoints" / "step_00000010" / "optimizer" / "rank_00001.safetensors")
    said = call("verify", run_folder, fails=True)
    assert "the content of optimizer/rank_00001.safetensors has changed" in said
    assert said.count("every file is as it was written") == 1
    assert "1 checkpoint(s)" in said


def test_export_takes_the_newest_valid_checkpoint_of_a_run(run_folder: Path, tmp_path: Path, world: Any) -> None:
    flip(run_folder / "checkpoints" / "step_00000020" / "model" / "rank_00000.safetensors")
    said = call("export-hf", run_folder, tmp_path / "out", "--dtype", "fp32")
    assert "step 10" in said
    found = load_file(tmp_path / "out" / "model.safetensors")
    truth = world.random_truth()["param"]
    assert found.keys() == truth.keys()
    assert all(torch.equal(found[name], values) for name, values in truth.items())


def test_a_dry_export_only_says_what_it_would_write(run_folder: Path, tmp_path: Path) -> None:
    assert "model.safetensors: 21 tensors" in call("export-hf", run_folder, tmp_path / "out", "--dry-run")
    assert not (tmp_path / "out").exists()


def test_import_reports_what_a_folder_holds(tmp_path: Path, world: Any) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    found = json.loads(call("import-hf", tmp_path / "hf", "--json"))
    assert (found["tensors"], found["dtypes"], found["tokenizer"]) == (21, {"BF16": 21}, None)
    assert found["parameters"] == 2 * 53 * 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16 + 2 * 16) + 16
    assert found["architecture"]["num_key_value_heads"] == 4
    assert "set model.init_from" in call("import-hf", tmp_path / "hf")


def test_import_refuses_a_folder_that_is_not_the_configured_model(tmp_path: Path, world: Any) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    (tmp_path / "run.yaml").write_text("name: x\nmodel: tiny\ntrain: {steps: 1}\n")
    said = call("import-hf", tmp_path / "hf", "--config", tmp_path / "run.yaml", fails=True)
    assert "holds another model: got vocab_size 53, hidden_size 16" in said


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_without_checkpoints_says_so(tmp_path: Path, command: str) -> None:
    result = CliRunner().invoke(checkpoint_app, [command, str(tmp_path)])
    assert isinstance(result.exception, CheckpointError)
    assert "there is no checkpoint in" in str(result.exception)
    assert "Example: megabiomed checkpoint" in call(command, "--help")
