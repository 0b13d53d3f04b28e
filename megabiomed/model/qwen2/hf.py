"""How Hugging Face's config.json describes Qwen2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megabiomed.model.hf_format import HuggingFaceFormat

DEFAULTS = {
    "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
}  # fmt: skip


def window(values: Mapping[str, Any]) -> int | None:
    """Qwen's: `use_sliding_window` turns it on, for the layers that `layer_types` or `max_window_layers` choose."""
    if not values.get("use_sliding_window"):
        return None
    chosen = values.get("layer_types")
    first = values.get("max_window_layers", 28)
    slides = "sliding_attention" in chosen if chosen else first < values["num_hidden_layers"]
    size: int | None = values.get("sliding_window", 4096) if slides else None
    return size


FORMAT = HuggingFaceFormat(
    model_type="qwen2",
    transformers_class="Qwen2ForCausalLM",
    defaults=DEFAULTS,
    fixed={"hidden_act": "silu"},
    exported={"use_sliding_window": False},
    window=window,
)
