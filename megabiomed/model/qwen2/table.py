"""Qwen2 (Yang et al. 2024, arXiv 2407.10671), Qwen2.5 and what is distilled into them: their tensors."""

from __future__ import annotations

from megabiomed.model.architecture import Architecture
from megabiomed.model.llama.table import TABLE as LLAMA
from megabiomed.model.qwen2.hf import FORMAT
from megabiomed.model.tensors import TensorSpec, extended

_ATTENTION = "model.layers.{i}.self_attn"


def _bias(part: str, size: str) -> TensorSpec:
    return TensorSpec(
        f"{_ATTENTION}.{part}_proj.bias", (size,), "rows", fused="qkv", initial="zeros", rotated=part != "v"
    )


TABLE = extended(
    LLAMA,
    {
        f"{_ATTENTION}.q_proj.weight": [_bias("q", "q")],
        f"{_ATTENTION}.k_proj.weight": [_bias("k", "kv")],
        f"{_ATTENTION}.v_proj.weight": [_bias("v", "kv")],
    },
)


class Qwen2(Architecture):
    """Llama with biases of q, k and v."""

    table = TABLE
    hugging_face = FORMAT
