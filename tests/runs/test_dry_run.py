"""A dry run refuses what its ranks would refuse, and promises nothing that does not hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import shipped
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import UserError
from megabiomed.model.flops import parameter_count
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.runs.kinds import read_run
from megabiomed.runs.start import StartOptions, start


def dry(run_file: Path, *overrides: object, nproc: int = 2) -> None:
    start(str(run_file), [str(each) for each in overrides], StartOptions(nproc, dry_run=True))


def test_a_model_to_start_from_must_be_there_and_fit(run_file: Path, tmp_path: Path) -> None:
    model = read_run(str(run_file), []).model
    folders = {"good": {}, "wide": {"hidden_size": 128}, "small": {"vocab_size": 300}, "large": {"vocab_size": 900}}
    for name, changes in folders.items():
        other = model.model_copy(update=changes)
        export_hf(SeededInit(other, 0), other, tmp_path / name, "bf16")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, message in {
        "gone": "is no file or folder: expected a Hugging Face folder; check the path",
        "empty": "is a folder without a run, a checkpoint or a model",
        "file": "is a file: expected a Hugging Face folder",
        "wide": "holds another model: got hidden_size 128",
        "large": "holds another model: got vocab_size 900, expected 600",
        "small": "no tokenizer.model",  # it would grow, by the pieces that its own tokenizer lacks
    }.items():
        with pytest.raises(UserError, match=re.escape(message)):
            dry(run_file, f"model.init_from={tmp_path / name}")
    with pytest.raises(UserError, match="has fewer rows than the tokenizer has pieces"):
        dry(run_file, f"model.init_from={tmp_path / 'small'}", "lora={rank: 2}")
    dry(run_file, f"model.init_from={tmp_path / 'good'}")


def test_a_folder_that_cannot_be_made_is_refused(run_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("/dev/null", tmp_path / "file", tmp_path / "file/r", "/proc/r"):
        with pytest.raises(UserError, match="cannot be written"):
            dry(run_file, f"run_dir={folder}")
    dry(run_file, f"run_dir={tmp_path / 'new/r'}")
    assert not (tmp_path / "new").exists()


def test_a_run_that_goes_on_needs_no_longer_what_it_began_with(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = read_run(str(run_file), [])
    overrides = [f"run_dir={tmp_path / 'r'}", f"model.init_from={tmp_path / 'gone'}"]
    state = RunState(TrainerState(global_step=4), config.model.identity(), "name: t\n")
    saved = CheckpointWriter(tmp_path / "r/checkpoints").save(4, [], state)
    dry(run_file, *overrides)
    assert f"resume: step 4 from {saved}" in capsys.readouterr().out
    with pytest.raises(UserError, match="is of another model: got num_hidden_layers 2 -> 3"):
        dry(run_file, *overrides, "model.num_hidden_layers=3")
    with pytest.raises(UserError, match="is no file or folder"):
        dry(run_file, *overrides, "lora={rank: 2}")


def test_data_of_another_tokenizer_are_refused_and_absent_ones_are_named(
    run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="the tokenizer does not fit the model: got 600 pieces"):
        dry(run_file, "model.vocab_size=512")
    with pytest.raises(UserError, match="there is nothing to train on"):
        dry(run_file, "data.train=[]")
    dry(run_file, f"data.validation={tmp_path / 'later'}")
    assert f"data: {tmp_path / 'later'}, not there yet" in capsys.readouterr().out


def test_what_fills_no_window_is_counted_before_the_start(run_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry(run_file, "data.seq_length=57")
    store = TokenStore.open(read_run(str(run_file), []).data.train[0].path)
    tokens = store.num_tokens - (store.num_tokens - 1) // 57 * 57
    assert f"data: {store.path}: {(store.num_tokens - 1) // 57:,} windows; {tokens} tokens at its end, of" in (
        capsys.readouterr().out
    )
    dry(run_file, "data.packing=best_fit")
    assert "left out" not in capsys.readouterr().out


def test_memory_is_that_of_the_largest_stage_and_the_command_names_hosts(
    run_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = ["model.num_hidden_layers=3", "parallel.tensor_parallel_size=1", "parallel.zero_stage=1"]
    dry(run_file, *layers, "parallel.pipeline_parallel_size=2", "data.global_batch_size=2048", nproc=1024)
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines() if re.match("[a-z ]+: ", line))
    matrices = 600 * 64 + 2 * (
        2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96 + 2 * 64
    )  # embedding and two of the three layers
    assert f"weights {4 * matrices / 1024:.1f} KiB" in said["memory per rank"]
    assert "(stage 1 of 2, the largest; the smallest" in said["memory per rank"]
    assert said["command"].startswith("torchrun --nnodes=128 --nproc_per_node=8 ")
    assert f"-m megabiomed.cli run {run_file} model.num_hidden_layers=3" in said["command"]


@pytest.mark.parametrize("name", shipped.names("models"))
def test_every_named_model_is_planned_on_any_topology(
    name: str, run_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = yaml.safe_load(run_file.read_text())
    plain["model"] = {"base": name}
    own = tmp_path / "run.yaml"
    own.write_text(yaml.safe_dump(plain))
    model = read_run(str(own), []).model
    for topology in ({"zero_stage": 3}, {"pipeline_parallel_size": 2, "zero_stage": 1}):
        dry(own, f"parallel={topology}", "data.global_batch_size=16", nproc=8)
        said = capsys.readouterr().out
        assert f"model: {parameter_count(model):,} parameters" in said
        assert re.search(r"compute: [1-9][\d.e+]* FLOP per token", said)
        assert "memory per rank: weights" in said
