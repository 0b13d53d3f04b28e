"""A certificate holds for the same model and names what differs in any other."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model.test_hf_folder import config, transformers_model
from safetensors.torch import save_file
from support.byte_level import byte_level

from megabiomed.checkpoint.logical import Box
from megabiomed.config.models import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.certificate import HALF_SPLIT, INTERLEAVED, Certificate, EngineLogits, certify
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.reference import StoredTensors, token_ids, transformers_logits
from megabiomed.model.registry import architecture_of

MODEL = config()


class Changed:
    """A source with one change to what another one reads."""

    def __init__(self, source: Any, change: Any) -> None:
        self._source, self._change = source, change

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        return self._change(box.name, self._source.read(box, kind))


def lively(model: ModelConfig = MODEL) -> Any:
    """Weights with logits that are far from uniform, so that a wrong order cannot hide."""
    return Changed(SeededInit(model, 3), lambda name, values: values * (10 if "proj" in name else 1))


def interleaved(name: str, values: torch.Tensor) -> torch.Tensor:
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    halves = values.unflatten(0, (-1, 2, MODEL.head_size // 2))
    return halves.transpose(1, 2).reshape(values.shape)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 5_000_000_000), ("bf16", 20_000), ("fp16", 5_000_000_000)])
def test_an_export_is_the_same_model(tmp_path: Path, dtype: Any, limit: int, kv_heads: int) -> None:
    model, ticks = config(kv_heads), []
    export_hf(lively(model), model, tmp_path / "hf", dtype, max_shard_bytes=limit)
    found = certify(tmp_path / "hf", lively(model), model, "export", "here", tick=lambda: ticks.append(1))
    found.check()
    assert (found.weights_max_diff, found.rope_layout, found.top1_agreement) == (0.0, HALF_SPLIT, 1.0)
    assert found.logits_max_diff < 1e-5 < 0.3 < found.logits_scale
    assert found.stored_as == {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]
    assert len(ticks) == 2 * model.num_hidden_layers
    assert found.lines()[0] == "certificate: valid"


def test_what_transformers_saved_is_the_model_that_we_read(tmp_path: Path) -> None:
    transformers_model(MODEL, tie_word_embeddings=True).save_pretrained(tmp_path)
    found = certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there")
    found.check()
    assert found.logits_max_diff < 1e-5


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda name, values: values.flip(0) if name == "model.layers.1.mlp.up_proj.weight" else values,
            "weights differ",
        ),
        (
            lambda name, values: values + 1e-3 if name == "model.norm.weight" else values,
            "weights differ by up to 0.001",
        ),
        (lambda name, values: values * float("nan") if "layers.0.mlp" in name else values, "differ by up to inf"),
        (interleaved, f"RoPE layout is {re.escape(INTERLEAVED)}"),
    ],
    ids=["rows in another order", "one tensor shifted", "not a number", "Meta's order of q and k"],
)
def test_another_model_is_refused_with_what_differs(tmp_path: Path, change: Any, says: str) -> None:
    export_hf(lively(), MODEL, tmp_path / "hf", "fp32")
    found = certify(tmp_path / "hf", Changed(lively(), change), MODEL, "export", "here")
    with pytest.raises(CheckpointError, match=says):
        found.check()
    found.store(tmp_path / "certificate.json")
    assert json.loads((tmp_path / "certificate.json").read_text())["valid"] is False


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    export_hf(lively(), MODEL, tmp_path / "hf", "fp32")
    byte_level(tmp_path / "hf")
    other = byte_level(tmp_path / "other", text="tumour necrosis factor of the mouse ")
    found = certify(tmp_path / "hf", lively(), MODEL, "export", "here", other)
    with pytest.raises(CheckpointError, match=r"tokenizer is \w+, not "):
        found.check()


def engine_certificate(folder: Path, logits: torch.Tensor, weights: float = 0.0) -> Certificate:
    engine = EngineLogits("tp2 pp1 dp1 zero3", "fp32", logits, weights)
    return certify(folder, HuggingFaceSource(folder), MODEL, "import", "there", engine=engine)


def test_an_engine_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    export_hf(lively(), MODEL, tmp_path, "fp32")
    right = transformers_logits(tmp_path, architecture_of(MODEL), StoredTensors(tmp_path), token_ids(MODEL))
    engine_certificate(tmp_path, right).check()
    with pytest.raises(CheckpointError, match="logits of tp2 pp1 dp1 zero3 differ"):
        engine_certificate(tmp_path, right.roll(1, dims=1)).check()
    with pytest.raises(CheckpointError, match=r"weights in tp2 pp1 dp1 zero3 differ by up to 0\.5"):
        engine_certificate(tmp_path, right, weights=0.5).check()
    wrong = replace(engine_certificate(tmp_path, right * float("nan")), tokenizer_sha256=None)
    with pytest.raises(CheckpointError, match="differ by up to inf"):
        wrong.check()


def test_an_index_beside_one_file_of_everything_is_what_transformers_passes_over(tmp_path: Path) -> None:
    """A folder that was saved again keeps the index and the parts of the time before."""
    old = transformers_model(MODEL)
    old.save_pretrained(tmp_path, max_shard_size="20kB")
    new = transformers_model(MODEL)
    with torch.no_grad():
        new.model.norm.weight.mul_(1.5)
    save_file({name: value.contiguous() for name, value in new.state_dict().items()}, tmp_path / "model.safetensors")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    found = certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there")
    found.check()
    assert found.loaded_max_diff == 0
    assert set(found.files.values()) == {"model.safetensors"}
    read = HuggingFaceSource(tmp_path).read(Box.whole("model.norm.weight", (MODEL.hidden_size,)))
    assert torch.equal(read, new.model.norm.weight.detach())


def test_a_tied_folder_with_a_head_of_its_own_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    model = transformers_model(MODEL)
    model.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    source = HuggingFaceSource(tmp_path)
    found = certify(tmp_path, source, MODEL, "import", "there")
    found.check()
    assert not source.tied
    assert found.loaded_max_diff == 0
    shape = (MODEL.vocab_size, MODEL.hidden_size)
    assert torch.equal(source.read(Box.whole("lm_head.weight", shape)), model.lm_head.weight.detach())


def test_other_weights_than_transformers_loads_are_named_as_the_cause(tmp_path: Path) -> None:
    transformers_model(MODEL).save_pretrained(tmp_path)
    found = certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there")
    assert replace(found, loaded_max_diff=0.25).problems() == [
        "transformers loads other weights from the folder: they differ by up to 0.25"
    ]


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_weights_that_config_json_asks_to_round_are_compared_as_rounded(tmp_path: Path, key: str) -> None:
    transformers_model(MODEL).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(settings | {key: "bfloat16"}))
    found = certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there")
    found.check()
    assert (found.stored_as, found.loaded_max_diff) == ("float32", 0)


def test_an_adapter_beside_a_whole_model_is_refused(tmp_path: Path) -> None:
    """transformers would load the base model that the adapter names, which may be another one."""
    transformers_model(MODEL).save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "other", "peft_type": "LORA"}))
    with pytest.raises(CheckpointError, match="holds an adapter beside a whole model"):
        HuggingFaceSource(tmp_path)


def test_dropout_of_the_reference_is_no_difference(tmp_path: Path) -> None:
    transformers_model(MODEL).save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"attention_dropout": 0.5}))
    certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there").check()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named_and_nothing_else(tmp_path: Path, value: float) -> None:
    model = transformers_model(MODEL)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    found = certify(tmp_path, HuggingFaceSource(tmp_path), MODEL, "import", "there")
    assert found.problems() == ["weights are not finite: model.layers.1.mlp.up_proj.weight (one of 1)"]
