"""The model card of an export says what the runs recorded, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import RunConfig
from megabiomed.config.base import parse
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.load import to_yaml
from megabiomed.config.models import ModelConfig
from megabiomed.model.card import write_card
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_certified, export_hf
from megabiomed.model.registry import architecture_of

MODEL = ModelConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip
SHAPES = architecture_of(MODEL).shapes


def saved(config: RunConfig, step: int) -> Checkpoint:
    fragments = [Fragment(Box.whole(name, shape), {"param": torch.ones(shape)}) for name, shape in SHAPES.items()]
    trainer = TrainerState(seed=config.seed, global_step=step, tokens_consumed=step * 64, megabiomed="1.0")
    state = RunState(trainer, config.model.model_dump(mode="json"), to_yaml(config))
    return Checkpoint.open(CheckpointWriter(config.folder / "checkpoints").save(step, fragments, state))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = export_hf(SeededInit(MODEL, 5), MODEL, tmp_path / "models--lab--small" / "snapshots" / "1f", "fp32")
    (folder / "README.md").write_text("---\nlicense: llama3.1\nlicense_link: https://l\ntags: [x]\n---\nWords\n")
    (folder / "LICENSE.txt").write_text("Terms")
    return folder


def run_of(kind: type[RunConfig], folder: Path, **sections: Any) -> Any:
    values = {
        "name": folder.name, "run_dir": str(folder), "train": {"steps": 9, "precision": "fp32"},
        "model": MODEL.model_dump(mode="json"), "optimizer": {"lr": 3e-4, "schedule": "linear"},
    }  # fmt: skip
    return parse(kind, {**values, **sections}, "test")


def header_and_text(folder: Path) -> tuple[dict[str, Any], str]:
    _, header, text = (folder / "README.md").read_text().split("---\n")
    return yaml.safe_load(header), text


def test_a_chain_of_runs_is_told_from_its_base_on(base: Path, corpus: Path, tmp_path: Path) -> None:
    model = {**MODEL.model_dump(mode="json"), "init_from": str(base)}
    data = {"train": [{"path": str(corpus / "train"), "weight": 2}, {"path": str(tmp_path / "gone" / "train")}]}
    pretraining = run_of(RunConfig, tmp_path / "papers", model=model, data={**data, "seq_length": 32})
    saved(pretraining, 7)
    questions = {"start_from": str(tmp_path / "papers"), "train": [{"path": "pubmedqa.json", "repeat": 3}]}
    checkpoint = saved(run_of(FinetuneRunConfig, tmp_path / "answers", finetune=questions), 9)
    found = export_certified(checkpoint, checkpoint, MODEL, tmp_path / "out", "fp32", False, 10**9)
    assert not found.problems()
    header, text = header_and_text(tmp_path / "out")
    assert header == {
        "license": "llama3.1", "license_link": "https://l", "library_name": "transformers", "base_model": "lab/small",
        "pipeline_tag": "text-generation",
    }  # fmt: skip
    assert (tmp_path / "out" / "LICENSE.txt").read_text() == "Terms"
    parameters = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    for said in (
        "# out", "step 9 of the run `answers`", f"llama, {parameters:,} parameters, 2 layers", "Base: `lab/small`",
        "Licence of the base: llama3.1, https://l (`LICENSE.txt`)", "learning rate 0.0003, schedule linear",
        "Steps: 7; tokens read, padding included: 448", "Trained: all weights", "certificate: valid",
        "| questions `pubmedqa.json` | 3 times an epoch |", "| `gone/train` | 1 | not there any more |",
    ):  # fmt: skip
        assert said in text, said
    assert text.index("## Run 1: papers") < text.index("| `c/train` | 2 | ") < text.index("## Run 2: answers")
    assert str(tmp_path) not in text


def test_what_is_not_known_is_said_to_be_so(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    questions = {"start_from": str(tmp_path / "lost"), "train": [{"path": "q.json"}]}
    checkpoint = saved(run_of(FinetuneRunConfig, tmp_path / "answers", finetune=questions), 2)
    write_card(tmp_path, "mine", checkpoint)
    header, text = header_and_text(tmp_path)
    assert not {"license", "license_link", "base_model"} & header.keys()
    assert "the run `lost`, whose checkpoints are not at their place any more" in text
    (base / "LICENSE.txt").unlink()
    (base / "README.md").write_text("---\nlicense: [1\n---\n")
    model = {**MODEL.model_dump(mode="json"), "init_from": str(base)}
    write_card(tmp_path, "mine", saved(run_of(RunConfig, tmp_path / "papers", model=model), 2))
    assert "not stated by its folder; find it out" in (tmp_path / "README.md").read_text()
    write_card(tmp_path, "mine", saved(run_of(RunConfig, tmp_path / "fresh"), 2), library="peft")
    assert (
        "Base: none; trained from random weights\n- Licence of the base: there is no base"
        in header_and_text(tmp_path)[1]
    )
    (tmp_path / "README.md").unlink()
    state = RunState(TrainerState(), MODEL.model_dump(mode="json"), "newer: keys\n")
    path = CheckpointWriter(tmp_path / "newer" / "checkpoints").save(0, [], state)
    write_card(tmp_path, "mine", Checkpoint.open(path))
    assert "no model card is written" in caplog.text
    assert not (tmp_path / "README.md").exists()
