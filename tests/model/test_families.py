"""Every shipped family is read from what transformers saved, computes the same, and is written back as the same family."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import FAMILIES, SIZES, tiny
from transformers import AutoConfig, AutoModelForCausalLM

from megabiomed.ground.errors import CheckpointError
from megabiomed.model.certificate import certify
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_export import DTYPES, export_hf
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture
from megabiomed.model.registry import architecture_of

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
WAYS = {"fp32": 5_000_000_000, "bf16": 20_000, "fp16": 5_000_000_000}
"""Element types of exports, with the largest size of a file."""


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_goes_in_and_out_with_certificates(family: str, tmp_path: Path) -> None:
    there = tiny(family)
    there.save_pretrained(tmp_path / "in", max_shard_size="30KB")
    model, source = model_config_from_hf(tmp_path / "in"), HuggingFaceSource(tmp_path / "in")
    assert model.kind == family
    assert set(architecture_of(model).shapes) == set(there.state_dict())
    check_architecture(tmp_path / "in", model)
    found = certify(tmp_path / "in", source, model, "import", "there")
    found.check()
    assert (found.weights_max_diff, found.top1_agreement) == (0.0, 1.0)
    assert found.logits_max_diff < 1e-5 < 0.3 < found.logits_scale

    for dtype, limit in WAYS.items():
        folder = export_hf(source, model, tmp_path / dtype, dtype, max_shard_bytes=limit)  # type: ignore[arg-type]
        found = certify(folder, source, model, "export", "here")
        found.check()
        assert (found.weights_max_diff, found.loaded_max_diff) == (0.0, 0.0)
        assert found.logits_max_diff < 1e-5
        again = AutoModelForCausalLM.from_pretrained(folder)
        assert (type(again), again.dtype) == (type(there), DTYPES[dtype])
        assert model_config_from_hf(folder) == model
        if dtype == "fp32":
            tokens = torch.arange(60).view(2, 30)
            with torch.no_grad():
                assert torch.equal(again(tokens).logits, there(tokens).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_config_json_leaves_out_mean_what_they_mean_to_transformers(family: str, tmp_path: Path) -> None:
    values = {key: {**SIZES, "num_attention_heads": 32, "hidden_size": 512}[key] for key in REQUIRED}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, **values}))
    theirs = AutoConfig.from_pretrained(tmp_path)
    ours = model_config_from_hf(tmp_path, length=32)
    for key in ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "initializer_range"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.head_size == getattr(theirs, "head_dim", 16)
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def stated(folder: Path, family: str, **keys: Any) -> Path:
    """A folder whose config.json has some keys changed."""
    values = {"model_type": family, **SIZES, **FAMILIES[family], **keys}
    (folder / "config.json").write_text(json.dumps(values))
    return folder


ALL = [
    {"hidden_act": "gelu"}, {"quantization_config": {"bits": 4}}, {"auto_map": {"AutoModelForCausalLM": "own.Model"}},
    {"attention_dropout": 0.1}, {"partial_rotary_factor": 0.5}, {"is_causal": False},
    {"layer_types": ["full_attention", "chunked_attention"]},
]  # fmt: skip
QWEN = [
    {"use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 32, "layer_types": ["full_attention", "sliding_attention"]},
]
REFUSED = [
    *((family, keys) for family in FAMILIES for keys in ALL),
    ("llama", {"attention_bias": True}), ("llama", {"mlp_bias": True}), ("qwen3", {"attention_bias": True}),
    ("mistral", {"sliding_window": 63}), *((family, keys) for family in ("qwen2", "qwen3") for keys in QWEN),
]  # fmt: skip
IDLE: dict[str, Any] = {
    "attention_dropout": 0.0, "use_cache": False, "torch_dtype": "float16", "dtype": "float16", "pretraining_tp": 2,
    "tie_word_embeddings": False, "bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": None, "hidden_act": "silu",
    "architectures": ["Other"], "quantization_config": None, "_name_or_path": "x", "transformers_version": "4.1",
    "output_attentions": False, "task_specific_params": {}, "is_decoder": True, "temperature": 0.6,
}  # fmt: skip
TAKEN = [
    *((family, IDLE) for family in FAMILIES),
    ("llama", {"sliding_window": 8, "attention_bias": False, "mlp_bias": None}),  # transformers' Llama has no window
    ("mistral", {"sliding_window": 64}),
    *(
        (family, {"use_sliding_window": use, "sliding_window": size, "max_window_layers": first})
        for family in ("qwen2", "qwen3")
        for use, size, first in [(False, 8, 0), (True, 64, 0), (True, 8, 2), (True, None, 0)]
    ),
]


def test_keys_that_change_the_arithmetic_are_refused_by_name(tmp_path: Path) -> None:
    for family, keys in REFUSED:
        named = "sliding_window" if "sliding_window" in keys else next(iter(keys))
        with pytest.raises(CheckpointError, match=rf"not computed here: got {named} "):
            model_config_from_hf(stated(tmp_path, family, **keys))


def test_keys_that_change_nothing_in_training_are_not(tmp_path: Path) -> None:
    for family, keys in TAKEN:
        plain = model_config_from_hf(stated(tmp_path, family))
        assert model_config_from_hf(stated(tmp_path, family, **keys)) == plain, (family, keys)


def test_a_window_counts_against_the_sequences_of_the_run(tmp_path: Path) -> None:
    tiny("mistral", sliding_window=32).save_pretrained(tmp_path)
    short = model_config_from_hf(tmp_path, length=32).model_copy(update={"max_position_embeddings": 32})
    check_architecture(tmp_path, short)
    with pytest.raises(CheckpointError, match="got sliding_window 32 for sequences of up to 33 tokens"):
        check_architecture(tmp_path, short.model_copy(update={"max_position_embeddings": 33}))


def test_a_model_type_that_no_family_has_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", **SIZES}))
    with pytest.raises(CheckpointError, match="got model_type 'gemma3', expected 'llama' or 'mistral' or 'qwen2' or"):
        model_config_from_hf(tmp_path)
