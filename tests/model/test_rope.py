"""Frequencies of every kind of RoPE equal those of transformers to the bit, on the way in and out as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import LLAMA3, SIZES, YARN
from transformers import AutoConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megabiomed.config.models import ModelConfig
from megabiomed.config.rope import RopeScaling
from megabiomed.ground.errors import CheckpointError, ConfigError
from megabiomed.model.as_transformers import as_transformers
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_config import hf_config, model_config_from_hf
from megabiomed.model.registry import architecture_of
from megabiomed.model.rope import rope_of

PUBLISHED_LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {},
    {"rope_theta": 1e6},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}, "rope_theta": 7.0},
    {"rope_scaling": {"type": "linear", "factor": 2.5}, "rope_theta": 5000},
    {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 1e5}},
    {"rope_scaling": PUBLISHED_LLAMA3, "rope_theta": 500000.0, "head_dim": 128, "max_position_embeddings": 131072},
    {"rope_scaling": {**PUBLISHED_LLAMA3, "factor": 32.0}, "rope_theta": 500000.0, "head_dim": 64},
    {"rope_parameters": LLAMA3},
    {"rope_scaling": {**YARN, "original_max_position_embeddings": 32768, "rope_theta": 1e6}, "head_dim": 128},
    {"rope_parameters": YARN},
    {"rope_parameters": {**YARN, "truncate": False, "beta_fast": 16, "beta_slow": 2}},
    {"rope_parameters": {**YARN, "attention_factor": 0.7}},
    {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    {"rope_parameters": {**YARN, "factor": 0.5}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 48},  # also the original one
    {"rope_parameters": YARN, "original_max_position_embeddings": 24},
]  # fmt: skip


def written(folder: Path, **keys: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **SIZES, **keys}))
    return folder


@pytest.mark.parametrize("keys", KINDS, ids=lambda keys: str(keys)[:60])
def test_angles_are_those_of_transformers(tmp_path: Path, keys: dict[str, Any]) -> None:
    theirs = LlamaRotaryEmbedding(AutoConfig.from_pretrained(written(tmp_path, **keys)))
    model = model_config_from_hf(tmp_path)
    rope: Any = rope_of(model)
    assert torch.equal(rope.frequencies(), theirs.inv_freq)
    assert rope.scale == theirs.attention_scaling
    positions = torch.tensor([0, 1, 47, 13])
    for ours, right in zip(rope.at(positions), theirs(torch.zeros(1), positions[None])):
        assert torch.equal(ours, right[0, :, : model.head_size // 2])

    out = hf_config(architecture_of(model), "float32", 1, 2)
    (tmp_path / "config.json").write_text(json.dumps(out))
    again = LlamaRotaryEmbedding(AutoConfig.from_pretrained(tmp_path))
    assert torch.equal(again.inv_freq, theirs.inv_freq)
    assert again.attention_scaling == theirs.attention_scaling
    assert model_config_from_hf(tmp_path) == model


def test_a_scaled_model_is_generated_with_its_own_rope() -> None:
    scaling = {key: value for key, value in YARN.items() if key != "rope_theta"}
    config = ModelConfig.model_validate({**SIZES, "rope_theta": 1000.0, "rope_scaling": scaling})
    model = as_transformers(config, SeededInit(config, 0), torch.float32, 1, 2)
    assert isinstance(model, LlamaForCausalLM)
    rope: Any = rope_of(config)
    assert torch.equal(model.model.rotary_emb.inv_freq, rope.frequencies())


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"type": "dynamic", "factor": 2.0}, "frequencies depend on the length of each sequence.*expected rope_type linear"),
        ({"rope_type": "longrope", "factor": 2.0}, "frequencies change with the length"),
        ({"rope_type": "proportional"}, "scales RoPE in a way that is not computed here: got .*proportional"),
        ({"rope_type": ["linear"]}, "scales RoPE in a way that is not computed here"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "all of each head rotated"),
        ({"rope_type": "linear"}, "no usable model: key 'rope_scaling.factor'"),
        ({"rope_type": "linear", "factor": "2"}, "no usable model: key 'rope_scaling.factor'"),
        ({"rope_type": "llama3", "factor": 8.0}, "rope_type llama3 needs low_freq_factor"),
        ({**PUBLISHED_LLAMA3, "low_freq_factor": 4.0}, "low_freq_factor must be below high_freq_factor"),
    ],
)  # fmt: skip
def test_scaling_that_is_not_computed_is_refused_with_the_reason(
    tmp_path: Path, scaling: dict[str, Any], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        model_config_from_hf(written(tmp_path, rope_scaling=scaling))


def test_keys_of_a_configuration_belong_to_its_type() -> None:
    from megabiomed.config.base import parse

    assert parse(RopeScaling, {"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 8}, "x") == parse(
        RopeScaling,
        {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 8, "beta_fast": 32, "truncate": True},
        "x",
    )
    with pytest.raises(ConfigError, match="low_freq_factor is no key of rope_type linear"):
        parse(RopeScaling, {"rope_type": "linear", "factor": 2.0, "low_freq_factor": 1.0}, "x")
    with pytest.raises(ConfigError, match="rope_type dynamic is not computed: its frequencies depend on the length"):
        parse(RopeScaling, {"rope_type": "dynamic", "factor": 2.0}, "x")
