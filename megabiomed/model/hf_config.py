"""Between Hugging Face's config.json and `ModelConfig`; what this package does not compute is refused, not ignored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from megabiomed.config.models import MODELS, ModelConfig
from megabiomed.config.rope import BY_LENGTH, ROPE_KEYS
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.architecture import Architecture
from megabiomed.model.hf_files import CONFIG, read_hf_config, ties_its_head
from megabiomed.model.hf_format import HuggingFaceFormat
from megabiomed.model.registry import architecture_class

_REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
_COMPUTED = {
    "quantization_config": None, "auto_map": None, "attention_dropout": 0.0, "partial_rotary_factor": 1.0, "is_causal": True,
}  # fmt: skip
"""Keys that change what transformers computes for every architecture, with the only value that is computed here. Other keys
that an architecture does not name change nothing in transformers either."""


def model_config_from_hf(path: str | Path, kind: str | None = None, length: int | None = None) -> ModelConfig:
    """The architecture of a Hugging Face folder, as written by transformers 4 or 5.

    Args:
        kind: `model.kind`; None takes the shipped one that has the folder's model_type.
        length: tokens of the longest sequence that is computed; None is the folder's max_position_embeddings.

    Raises:
        CheckpointError: another model, or one with something that is not computed here (quantised weights, another
            activation, a sliding window shorter than the sequences).
    """
    file, values = Path(path) / CONFIG, read_hf_config(Path(path))
    named = {name: architecture_class(name) for name in (MODELS.names() if kind is None else [kind])}
    for name, architecture in named.items():
        if architecture.hugging_face.model_type == values.get("model_type"):
            found = _read(architecture, name, {**values, "tie_word_embeddings": ties_its_head(file.parent)}, file)
            _check_window(architecture.hugging_face, values, length or found.max_position_embeddings, file)
            return found
    raise CheckpointError(
        f"{file} describes a model that is not computed here", got=f"model_type {values.get('model_type')!r}",
        expected=" or ".join(repr(each.hugging_face.model_type) for each in named.values()),
    )  # fmt: skip


def _read(architecture: type[Architecture], kind: str, values: dict[str, Any], file: Path) -> ModelConfig:
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise CheckpointError(f"{file} lacks {missing[0]}", do="take the config.json that belongs to the weights")
    layout = architecture.hugging_face
    for key, value in {**_COMPUTED, **layout.fixed}.items():
        if values.get(key) not in (value, None):
            raise CheckpointError(
                f"{file} asks for what is not computed here", got=f"{key} {values[key]}", expected=value
            )
    known = {key: values.get(key, default) for key, default in layout.defaults.items()}
    known |= {key: values[key] for key in (*_REQUIRED, *layout.keys) if key in values}
    given = {**layout.defaults, **values}
    known["num_key_value_heads"] = given.get("num_key_value_heads") or values["num_attention_heads"]
    known |= {"kind": kind, "head_dim": given.get("head_dim"), **_rope(values, known["max_position_embeddings"], file)}
    known["tie_word_embeddings"] = values["tie_word_embeddings"]
    try:
        # As JSON and strictly: a string of digits is no number.
        config = architecture.config_class.model_validate_json(json.dumps(known), strict=True)
    except ValidationError as error:
        complaint = error.errors()[0]
        key = ".".join(map(str, complaint["loc"]))
        raise CheckpointError(
            f"{file} describes no usable model" + (f": key {key!r}" if key else ""),
            got=repr(complaint["input"])[:200] if key else None, expected=complaint["msg"].removeprefix("Value error, "),
            do="take the config.json that belongs to the weights",
        ) from None  # fmt: skip
    spelt_out = config.head_dim == config.hidden_size // config.num_attention_heads
    return config.model_copy(update={"head_dim": None}) if spelt_out else config


def _check_window(layout: HuggingFaceFormat, values: Mapping[str, Any], length: int, file: Path) -> None:
    """Refuse a sliding window that hides tokens of a sequence; up to its length it changes nothing."""
    for key, kind in (("sliding_window", int), ("max_window_layers", int), ("layer_types", list)):
        if not isinstance(values.get(key), kind | None):
            raise CheckpointError(
                f"{file} is damaged", got=f"{key} {values[key]!r}", expected=f"{kind.__name__} or null"
            )
    other = [name for name in values.get("layer_types") or () if name not in ("full_attention", "sliding_attention")]
    if other:
        raise CheckpointError(f"{file} asks for what is not computed here", got=f"layer_types with {other[0]!r}")
    window = layout.window(values)
    if window is not None and window < length:
        raise CheckpointError(
            f"{file} asks for a sliding window, which is not computed here",
            got=f"sliding_window {window} for sequences of up to {length} tokens",
            expected=f"model.max_position_embeddings (in config.json: max_position_embeddings) of at most {window}",
            do="shorten the sequences, which the window then does not change",
        )


def _rope(values: Mapping[str, Any], longest: Any, file: Path) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` of the model: keys of transformers 4, or its `rope_parameters` of version 5.

    Args:
        longest: max_position_embeddings, which transformers takes for an absent original length.
    """
    held = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(held, dict):
        raise CheckpointError(f"{file} is damaged", got=f"{held!r} for the scaling of RoPE", expected="a mapping")
    kind = held.get("rope_type", held.get("type", "default"))
    found = {"rope_theta": held.get("rope_theta", values.get("rope_theta", 10000.0)), "rope_scaling": None}
    if held.get("partial_rotary_factor", 1.0) != 1.0 or kind not in (*ROPE_KEYS, "default"):
        raise CheckpointError(
            f"{file} scales RoPE in a way that is not computed here",
            got=f"{held}" + "".join(f"; {reason}" for name, reason in BY_LENGTH.items() if name == kind),
            expected=f"rope_type {', '.join(ROPE_KEYS)} or none, and all of each head rotated",
        )
    if kind == "default":
        return found
    given = {"original_max_position_embeddings": longest, **held}
    if values.get("original_max_position_embeddings") is not None:  # beside the mapping it counts before that inside
        given["original_max_position_embeddings"] = values["original_max_position_embeddings"]
    scaling = {key: given[key] for key in ROPE_KEYS[kind] if key in given}
    return {**found, "rope_scaling": {"rope_type": kind, **scaling}}


def hf_config(architecture: Architecture, dtype: str, bos: int | None, eos: int) -> dict[str, Any]:
    """The config.json of an exported model, readable by transformers 4 and 5.

    Args:
        dtype: torch's name of the stored element type.
    """
    config, layout = architecture.config, architecture.hugging_face
    return {
        "architectures": [layout.transformers_class],
        "model_type": layout.model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling and config.rope_scaling.values(),
        **layout.fixed,
        **layout.exported,
        **{key: getattr(config, key) for key in layout.keys},
        "tie_word_embeddings": architecture.tied,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "use_cache": True,
        "torch_dtype": dtype,
    }
