"""A run file that says nothing of tying takes it from its own checkpoint, else from the model that it begins with."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import ModelConfig, RunConfig
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.runs.tying import with_tying

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip


def run(folder: Path, **model: object) -> RunConfig:
    values = {"name": "t", "run_dir": folder, "model": {**SIZES, **model}, "train": {"steps": 1}}
    return RunConfig.model_validate(values)


def tied(config: RunConfig) -> bool | None:
    return with_tying(config).model.tie_word_embeddings


def saved(folder: Path, model: ModelConfig) -> Path:
    """A run with a checkpoint of a model."""
    state = RunState(TrainerState(global_step=1), model.identity(), "name: t\n")
    CheckpointWriter(folder / "checkpoints").save(1, [], state)
    return folder


def test_tying_comes_from_where_the_weights_come_from(tmp_path: Path) -> None:
    as_one, apart = (ModelConfig.model_validate({**SIZES, "tie_word_embeddings": tie}) for tie in (True, False))
    one = export_hf(SeededInit(as_one, 0), as_one, tmp_path / "one")
    two = export_hf(SeededInit(apart, 0), apart, tmp_path / "two")
    new = tmp_path / "new"
    assert tied(run(new)) is None  # random weights
    assert tied(run(new, init_from=tmp_path / "gone")) is None  # whoever starts the run reads it again
    assert tied(run(new, init_from=one)) is True
    assert tied(run(new, init_from=two)) is False
    assert tied(run(new, init_from=one, tie_word_embeddings=False)) is False  # the file counts first

    before = saved(tmp_path / "before", apart)
    assert tied(run(before, init_from=one)) is False  # a run of an earlier release trained them apart, and goes on so
    assert tied(run(saved(tmp_path / "since", as_one), init_from=tmp_path / "gone")) is True

    start = {"train": [{"path": "q.json"}], "start_from": str(tmp_path / "since")}
    values = {"name": "t", "run_dir": new, "model": SIZES, "train": {"steps": 1}, "finetune": start}
    assert tied(FinetuneRunConfig.model_validate(values)) is True
