"""How Hugging Face's config.json describes Llama and Mistral, which have the same tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megabiomed.model.hf_format import HuggingFaceFormat

LLAMA = HuggingFaceFormat(
    model_type="llama",
    transformers_class="LlamaForCausalLM",
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "initializer_range": 0.02},
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)


def _mistral_window(values: Mapping[str, Any]) -> int | None:
    window: int | None = values.get("sliding_window", 4096)
    return window


MISTRAL = HuggingFaceFormat(
    model_type="mistral",
    transformers_class="MistralForCausalLM",
    defaults={
        "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "initializer_range": 0.02,
    },
    fixed={"hidden_act": "silu"},
    exported={"sliding_window": None},  # absent it would be 4096
    window=_mistral_window,
)  # fmt: skip
