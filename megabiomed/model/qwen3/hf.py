"""How Hugging Face's config.json describes Qwen3."""

from __future__ import annotations

from megabiomed.model.hf_format import HuggingFaceFormat
from megabiomed.model.qwen2.hf import DEFAULTS, window

FORMAT = HuggingFaceFormat(
    model_type="qwen3",
    transformers_class="Qwen3ForCausalLM",
    defaults={**DEFAULTS, "head_dim": 128},
    fixed={"hidden_act": "silu", "attention_bias": False},
    exported={"use_sliding_window": False},
    window=window,
)
