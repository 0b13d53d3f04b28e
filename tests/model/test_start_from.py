"""Checkpoints of adapters: merged box by box into the model beside which they were trained, and into no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import LoraConfig, ModelConfig
from megabiomed.ground import hashes
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.certificate import certify
from megabiomed.model.fresh import AdapterInit, SeededInit
from megabiomed.model.frozen import same_start
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.merged import check_adapters
from megabiomed.model.peft import export_adapter
from megabiomed.model.registry import architecture_of
from megabiomed.model.start_from import frozen_reference, model_base, notes_on_tying, whole_model

MODEL = ModelConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip
ADAPTERS = LoraConfig(rank=3, alpha=6.0, targets=["q", "v", "down"])


def saved(folder: Path, tensors: dict[str, torch.Tensor], model: ModelConfig = MODEL, **trainer: Any) -> Checkpoint:
    fragments = [Fragment(Box.whole(name, tuple(t.shape)), {"param": t}) for name, t in tensors.items()]
    state = RunState(TrainerState(seed=5, **trainer), model.model_dump(mode="json"), "name: t\n")
    return Checkpoint.open(CheckpointWriter(folder / "checkpoints").save(3, fragments, state))


def adapters(
    folder: Path, start: Path | None, model: ModelConfig = MODEL
) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tensors = {
        name: torch.randn(shape, generator=generator)
        for name, shape in architecture_of(model).trained_shapes(ADAPTERS).items()
    }
    frozen = {"language_model": frozen_reference(start, model, 5)}
    return saved(folder, tensors, model, frozen=frozen, lora=ADAPTERS), tensors


def test_merged_weights_are_the_sum_in_every_box(tmp_path: Path) -> None:
    checkpoint, factors = adapters(tmp_path, None)
    source, plain = whole_model(checkpoint), SeededInit(MODEL, 5)
    for name, shape in architecture_of(MODEL).shapes.items():
        expected = plain.read(Box.whole(name, shape)).double()
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in factors:
            a, b = (factors[f"{stem}.lora_{part}.weight"].double() for part in "AB")
            expected = expected + 2.0 * b @ a
        whole = source.read(Box.whole(name, shape))
        assert torch.equal(whole, expected.float()), name
        if len(shape) == 2:
            part = Box(name, shape, (3, 5), (4, 6))
            assert torch.equal(source.read(part), whole[3:7, 5:11])
        assert not source.read(Box.whole(name, shape), "exp_avg").any()


@pytest.mark.parametrize("tied", [True, False])
def test_adapters_beside_a_tied_folder_are_exported_as_they_were_trained(tmp_path: Path, tied: bool) -> None:
    folder_model = MODEL.model_copy(update={"tie_word_embeddings": True})
    base = export_hf(SeededInit(folder_model, 9), folder_model, tmp_path / "base", "fp32")
    model = MODEL.model_copy(update={"tie_word_embeddings": tied})
    source = whole_model(adapters(tmp_path / "run", base, model)[0])
    out = export_hf(source, model, tmp_path / "out", "fp32")
    assert HuggingFaceSource(out).tied == tied
    certify(out, source, model, "export", "here").check()


def test_fresh_adapters_add_nothing_and_are_the_same_in_every_part() -> None:
    fresh, shapes = AdapterInit(MODEL, 5), architecture_of(MODEL).trained_shapes(ADAPTERS)
    for name, shape in shapes.items():
        values = fresh.read(Box.whole(name, shape))
        if "lora_B" in name:
            assert not values.any()
            continue
        limit = shape[1] ** -0.5
        assert 0.9 * limit < float(values.abs().max()) <= limit
        assert torch.equal(fresh.read(Box(name, shape, (1, 4), (2, 8))), values[1:3, 4:12])


def test_a_base_that_moved_is_found_by_name_and_another_one_is_refused(tmp_path: Path) -> None:
    base = export_hf(SeededInit(MODEL, 9), MODEL, tmp_path / "base", "fp32")
    checkpoint, _ = adapters(tmp_path / "run", base)
    right = whole_model(checkpoint).read(Box.whole("lm_head.weight", (40, 16)))
    base.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match="is gone"):
        whole_model(checkpoint)
    assert torch.equal(whole_model(checkpoint, tmp_path / "moved").read(Box.whole("lm_head.weight", (40, 16))), right)
    other = export_hf(SeededInit(MODEL, 8), MODEL, tmp_path / "other", "fp32")
    with pytest.raises(CheckpointError, match="not the one that"):
        whole_model(checkpoint, other)


def test_a_resumed_run_stays_beside_the_checkpoint_that_it_began_with(tmp_path: Path) -> None:
    weights = {name: torch.ones(shape) for name, shape in architecture_of(MODEL).shapes.items()}
    first = saved(tmp_path / "pretraining", weights)
    checkpoint, _ = adapters(tmp_path / "run", tmp_path / "pretraining")
    later = first.path.with_name("step_00000009")
    CheckpointWriter(later.parent).save(9, [], RunState(TrainerState(seed=5), MODEL.model_dump(mode="json"), ""))
    start = tmp_path / "pretraining"
    assert same_start(checkpoint, start) == first.path.absolute()
    assert same_start(first, start) == start
    assert same_start(checkpoint, tmp_path / "elsewhere") == tmp_path / "elsewhere"


def test_a_run_goes_on_with_the_adapters_that_it_began_with(tmp_path: Path) -> None:
    checkpoint, _ = adapters(tmp_path / "run", None)
    check_adapters(checkpoint, ADAPTERS.model_copy(update={"dropout": 0.5}))
    for other in (None, LoraConfig(rank=3, alpha=7.0, targets=["q", "v", "down"]), LoraConfig(rank=3, alpha=6.0)):
        with pytest.raises(CheckpointError, match="other adapters"):
            check_adapters(checkpoint, other)


def test_what_holds_no_adapters_or_is_of_another_model_is_refused(tmp_path: Path) -> None:
    weights = {name: torch.ones(shape) for name, shape in architecture_of(MODEL).shapes.items()}
    whole = saved(tmp_path / "whole", weights)
    assert whole_model(whole) is whole
    with pytest.raises(CheckpointError, match="leave --base out"):
        whole_model(whole, tmp_path)
    with pytest.raises(CheckpointError, match="holds no adapters"):
        export_adapter(whole, tmp_path / "out")
    with pytest.raises(CheckpointError, match="hidden_size 16 -> 32"):
        model_base(tmp_path / "whole", MODEL.model_copy(update={"hidden_size": 32}), 0)
    with pytest.raises(CheckpointError):
        model_base(tmp_path / "nothing", MODEL, 0)


def test_a_frozen_model_does_not_grow_with_the_tokenizer(tmp_path: Path) -> None:
    weights = {name: torch.ones(shape) for name, shape in architecture_of(MODEL).shapes.items()}
    saved(tmp_path / "run", weights)
    folder = export_hf(SeededInit(MODEL, 5), MODEL, tmp_path / "hf", "fp32")
    larger = MODEL.model_copy(update={"vocab_size": 43})
    for start, model in (
        (tmp_path / "run", larger),
        (folder, larger),
        (None, larger.model_copy(update={"init_from": folder})),
    ):
        with pytest.raises(CheckpointError, match=r"got 40 rows, expected model\.vocab_size = 43; only a Hugging"):
            model_base(start, model, 0)


def test_a_hugging_face_base_is_hashed_once_for_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, run = export_hf(SeededInit(MODEL, 5), MODEL, tmp_path / "hf", "fp32"), tmp_path / "run"
    checkpoint, _ = adapters(run, folder)
    first = frozen_reference(folder, MODEL, 5, run)
    monkeypatch.setattr(hashes, "sha256_file", pytest.fail)
    assert frozen_reference(folder, MODEL, 5, run) == first == checkpoint.language_model
    whole_model(checkpoint)


def test_a_folder_of_tied_embeddings_is_warned_of_until_it_has_a_head_of_its_own(tmp_path: Path) -> None:
    folder = export_hf(SeededInit(MODEL, 5), MODEL, tmp_path / "hf")
    settings = json.loads((folder / "config.json").read_text())
    assert notes_on_tying(folder, MODEL) == []
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    assert notes_on_tying(folder, MODEL) == []
    # A head of its own counts.
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors")
    (said,) = notes_on_tying(None, MODEL.model_copy(update={"init_from": folder}))
    assert "both are trained apart" in said
    assert notes_on_tying(folder, MODEL.model_copy(update={"tie_word_embeddings": True})) == []
    assert notes_on_tying(tmp_path / "nowhere", MODEL) == []
