"""How Hugging Face's config.json describes Llama."""

from __future__ import annotations

from megabiomed.model.hf_format import HuggingFaceFormat

FORMAT = HuggingFaceFormat(
    model_type="llama",
    transformers_class="LlamaForCausalLM",
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "initializer_range": 0.02},
    fixed={"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
)
