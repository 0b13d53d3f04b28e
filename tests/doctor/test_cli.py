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

from megabiomed.checkpoint.fence import Fence
from megabiomed.doctor.cli import checkpoint_app
from megabiomed.ground.errors import CheckpointError, UserError
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf


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
    assert older["topology"] == {"ranks": 4, "tensor": 2, "data": 2}
    assert older["optimizer_bytes"] > older["model_bytes"] > older["parameters"] * 4
    assert older["kinds"] == ["exp_avg", "exp_avg_sq", "param"]


def test_inspect_prints_a_table(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    table = call("inspect", run_folder / "checkpoints" / "step_00000010")
    assert re.search(r"step_00000010 .*yes .*10 .*4,096 .*ranks=4 tensor=2 data=2", table)


def test_verify_finds_a_flipped_bit(run_folder: Path) -> None:
    assert call("verify", run_folder).count("every file is as it was written") == 2
    flip(run_folder / "checkpoints" / "step_00000010" / "optimizer" / "rank_00001.safetensors")
    said = call("verify", run_folder, fails=True)
    assert "the content of optimizer/rank_00001.safetensors has changed" in said
    assert said.count("every file is as it was written") == 1
    assert "1 checkpoint(s)" in said
    listed = json.loads(CliRunner().invoke(checkpoint_app, ["verify", str(run_folder), "--json"]).stdout)
    assert [len(item["problems"]) for item in listed] == [0, 1]


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


def test_inspect_says_what_a_topology_needs_and_which_keys_differ(run_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("name: other\nmodel: tiny\ntrain: {steps: 10}\n")
    arguments = ["inspect", run_folder, "--topology", "tp=2 pp=2 dp=2 zero=3", "--config", tmp_path / "run.yaml"]
    found = json.loads(call(*arguments, "--json"))
    assert (found["needs"]["processes"], [stage["ranks"] for stage in found["needs"]["stages"]]) == (
        8,
        [[0, 3], [4, 7]],
    )
    changed = {item["key"]: (item["checkpoint"], item["config"]) for item in found["config"]}
    assert changed["train.steps"] == (9, 10)
    assert "seed" not in changed
    table = call(*arguments)
    assert "8 processes" in table
    assert "config: train.steps: 9 -> 10" in table


@pytest.mark.parametrize(
    ("topology", "says"),
    [("tp=16", "set parallel.tensor_parallel_size=8"), ("cp=2", "got 'cp=2', expected tp, pp"), ("tp=x", "topology")],
)
def test_a_topology_that_cannot_be_is_refused(run_folder: Path, topology: str, says: str) -> None:
    assert says in call("inspect", run_folder, "--topology", topology, fails=True)


def test_diff_names_the_tensors_that_differ(run_folder: Path, tmp_path: Path, world: Any) -> None:
    first, second = (run_folder / "checkpoints" / name for name in ("step_00000010", "step_00000020"))
    assert "0 of 63 tensors and moments differ" in call("diff", first, second)
    truth = world.random_truth()
    truth["exp_avg"]["lm_head.weight"][0, 0] += 0.5
    other = world.cut_world(world.MODEL, 1, [])  # another topology
    world.fill(other, truth)
    world.save_world(tmp_path / "other" / "checkpoints", 3, other, world.state())
    done = CliRunner().invoke(checkpoint_app, ["diff", str(first), str(tmp_path / "other"), "--json"])
    assert done.exit_code == 1
    (found,) = json.loads(done.stdout)
    assert (found["name"], found["kind"], found["differing"]) == ("lm_head.weight", "exp_avg", 1)
    assert found["max_abs"] == pytest.approx(0.5)


def test_diff_compares_a_checkpoint_with_its_export(run_folder: Path, tmp_path: Path) -> None:
    call("export-hf", run_folder, tmp_path / "exact", "--dtype", "fp32")
    assert "0 of 21" in call("diff", run_folder, tmp_path / "exact")
    call("export-hf", run_folder, tmp_path / "rounded", "--dtype", "bf16")
    done = CliRunner().invoke(checkpoint_app, ["diff", str(run_folder), str(tmp_path / "rounded"), "--json"])
    assert all(item["relative"] < 2**-8 for item in json.loads(done.stdout))


def test_prune_says_first_and_then_removes(run_folder: Path) -> None:
    folder = run_folder / "checkpoints"
    (folder / "step_00000030.tmp-dead").mkdir()
    said = call("prune", run_folder, "--keep-last", "1", "--dry-run")
    assert said.count("would remove") == 2
    assert len(list(folder.iterdir())) == 3
    assert call("prune", folder, "--keep-last", "1").count("removed: ") == 2
    assert [path.name for path in folder.iterdir()] == ["step_00000020"]
    assert "nothing to remove" in call("prune", run_folder, "--keep-last", "1")


def test_prune_leaves_a_save_that_is_going_on(run_folder: Path) -> None:
    token = Fence.claim(run_folder, "job.1").token
    (run_folder / "checkpoints" / f"step_00000030.tmp-{token}").mkdir()
    assert "nothing to remove" in call("prune", run_folder, "--keep-last", "2")


def test_an_export_carries_its_certificate(run_folder: Path, tmp_path: Path) -> None:
    said = call("export-hf", run_folder, tmp_path / "out", "--max-shard-gb", "0.001")
    assert "certificate: valid" in said
    stored = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert (stored["valid"], stored["weights_max_diff"], stored["stored_as"]) == (True, 0.0, "bfloat16")
    assert stored["folder"] == str(tmp_path / "out")
    assert set(stored["versions"]) == {"megabiomed", "torch", "transformers", "safetensors"}


def test_a_model_with_a_nan_is_exported_only_on_demand(tmp_path: Path, world: Any) -> None:
    truth = world.random_truth()
    truth["param"]["model.norm.weight"][3] = float("nan")
    ranks = world.cut_world(world.MODEL, 1, [])
    world.fill(ranks, truth)
    world.save_world(tmp_path / "run" / "checkpoints", 1, ranks, world.state())
    said = call("export-hf", tmp_path / "run", tmp_path / "out", fails=True)
    assert "weights are not finite: model.norm.weight" in said
    assert "--allow-uncertified" in said
    assert not list(tmp_path.glob("out*"))
    assert "certificate: weights are not finite" in call(
        "export-hf", tmp_path / "run", tmp_path / "out", "--allow-uncertified"
    )
    assert json.loads((tmp_path / "out" / "certificate.json").read_text())["valid"] is False


def test_import_stores_a_certificate_or_says_why_not(tmp_path: Path, world: Any) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    assert "certificate: valid" in call("import-hf", tmp_path / "hf")
    assert json.loads((tmp_path / "hf" / "import_certificate.json").read_text())["valid"] is True
    call("import-hf", tmp_path / "hf", "--certificate", tmp_path / "mine.json")
    assert json.loads((tmp_path / "mine.json").read_text())["direction"] == "import"
    assert "certificate" not in call("import-hf", tmp_path / "hf", "--no-certify")


def test_import_reports_what_a_folder_holds(tmp_path: Path, world: Any) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    found = json.loads(call("import-hf", tmp_path / "hf", "--json"))
    assert (found["tensors"], found["dtypes"], found["tokenizer"]) == (21, {"BF16": 21}, None)
    assert found["parameters"] == 2 * 53 * 16 + 2 * (2 * 16 * 16 + 2 * 8 * 16 + 3 * 24 * 16 + 2 * 16) + 16
    assert found["architecture"]["num_key_value_heads"] == 4
    assert "set model.init_from" in call("import-hf", tmp_path / "hf")


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.json"])
def test_a_tokenizer_of_no_bytes_is_not_imported(tmp_path: Path, world: Any, name: str) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    (tmp_path / "hf" / name).touch()
    assert name in call("import-hf", tmp_path / "hf", fails=True)
    assert not (tmp_path / "hf" / "import_certificate.json").exists()


def test_import_refuses_a_folder_that_is_not_the_configured_model(tmp_path: Path, world: Any) -> None:
    export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf")
    (tmp_path / "run.yaml").write_text("name: x\nmodel: tiny\ntrain: {steps: 1}\n")
    said = call("import-hf", tmp_path / "hf", "--config", tmp_path / "run.yaml", fails=True)
    assert "holds another model: got vocab_size 53, hidden_size 16" in said


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_folder_without_checkpoints_says_so(tmp_path: Path, command: str) -> None:
    result = CliRunner().invoke(checkpoint_app, [command, str(tmp_path)])
    assert isinstance(result.exception, CheckpointError)
    assert "a folder without a run, a checkpoint or a model: expected a run folder" in str(result.exception)
    assert "Example: megabiomed checkpoint" in call(command, "--help")
