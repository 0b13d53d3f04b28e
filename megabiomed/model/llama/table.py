"""Llama (Touvron et al. 2023, arXiv 2307.09288): its tensors, in forward order."""

from __future__ import annotations

from megabiomed.model.architecture import Architecture
from megabiomed.model.llama.hf import LLAMA, MISTRAL
from megabiomed.model.tensors import TensorSpec

_LAYER = "model.layers.{i}"
TABLE = (
    TensorSpec("model.embed_tokens.weight", ("v", "h"), "vocabulary"),
    TensorSpec(f"{_LAYER}.input_layernorm.weight", ("h",), "whole", initial="ones"),
    TensorSpec(f"{_LAYER}.self_attn.q_proj.weight", ("q", "h"), "rows", fused="qkv", adapter="q", rotated=True),
    TensorSpec(f"{_LAYER}.self_attn.k_proj.weight", ("kv", "h"), "rows", fused="qkv", adapter="k", rotated=True),
    TensorSpec(f"{_LAYER}.self_attn.v_proj.weight", ("kv", "h"), "rows", fused="qkv", adapter="v"),
    TensorSpec(f"{_LAYER}.self_attn.o_proj.weight", ("h", "q"), "columns", adapter="o", initial="residual"),
    TensorSpec(f"{_LAYER}.post_attention_layernorm.weight", ("h",), "whole", initial="ones"),
    TensorSpec(f"{_LAYER}.mlp.gate_proj.weight", ("i", "h"), "rows", fused="gate_up", adapter="gate"),
    TensorSpec(f"{_LAYER}.mlp.up_proj.weight", ("i", "h"), "rows", fused="gate_up", adapter="up"),
    TensorSpec(f"{_LAYER}.mlp.down_proj.weight", ("h", "i"), "columns", adapter="down", initial="residual"),
    TensorSpec("model.norm.weight", ("h",), "whole", initial="ones"),
    TensorSpec("lm_head.weight", ("v", "h"), "vocabulary"),
)


class Llama(Architecture):
    """Llama 2 and 3, and every decoder with the same tensors."""

    table = TABLE
    hugging_face = LLAMA


class Mistral(Llama):
    """Mistral 7B (Jiang et al. 2023, arXiv 2310.06825) from v0.2 on, which has no sliding window, and Mistral Nemo."""

    hugging_face = MISTRAL
