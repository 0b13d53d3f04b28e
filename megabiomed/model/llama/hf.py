"""Between Hugging Face's config.json and `ModelConfig`; what this package does not compute is refused, not ignored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from megabiomed.config.schema import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import read_json

_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# What transformers' LlamaConfig takes for an absent key; rms_norm_eps differs from this package's default.
_DEFAULTS = {"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "initializer_range": 0.02}


def model_config_from_hf(path: str | Path) -> ModelConfig:
    """The architecture of a Hugging Face Llama folder, as written by transformers 4 or 5.

    Raises:
        CheckpointError: no Llama, or a Llama with something that is not computed here (scaled RoPE, biases, quantised
            weights, another activation or head size).
    """
    file = Path(path) / "config.json"
    values = read_json(file)
    if not isinstance(values, dict) or values.get("model_type") != "llama":
        got = values.get("model_type") if isinstance(values, dict) else type(values).__name__
        raise CheckpointError(f"{file} is no Llama model", got=repr(got), expected="model_type 'llama'")
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise CheckpointError(f"{file} lacks {missing[0]}", do="take the config.json that belongs to the weights")
    known = {key: values.get(key, default) for key, default in _DEFAULTS.items()}
    known |= {key: values[key] for key in _REQUIRED}
    known["num_key_value_heads"] = values.get("num_key_value_heads") or values["num_attention_heads"]
    try:
        config = ModelConfig(**known, rope_theta=_rope_theta(values, file))
    except ValidationError as error:
        raise CheckpointError(f"{file} describes no usable model", got=error.errors()[0]["msg"]) from None
    _refuse_unsupported(values, config, file)
    return config


def _rope_theta(values: dict[str, Any], file: Path) -> Any:
    """The base of RoPE: `rope_theta` of transformers 4, `rope_parameters` of transformers 5."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise CheckpointError(
            f"{file} scales RoPE, which is not computed here", got=rope, expected="plain RoPE, as in Llama2"
        )
    return rope.get("rope_theta", values.get("rope_theta", 10000.0))


def _refuse_unsupported(values: dict[str, Any], config: ModelConfig, file: Path) -> None:
    supported = {
        "attention_bias": False,
        "mlp_bias": False,
        "hidden_act": "silu",
        "head_dim": config.head_dim,
        "quantization_config": None,
    }
    for key, value in supported.items():
        if values.get(key) not in (value, None):
            raise CheckpointError(
                f"{file} asks for what is not computed here", got=f"{key} {values[key]}", expected=value
            )


def hf_config(config: ModelConfig, dtype: torch.dtype, bos: int, eos: int) -> dict[str, Any]:
    """The config.json of an exported model, readable by transformers 4 and 5."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "use_cache": True,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
