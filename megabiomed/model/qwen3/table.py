"""Qwen3 (Yang et al. 2025, arXiv 2505.09388): its tensors."""

from __future__ import annotations

from megabiomed.model.architecture import Architecture
from megabiomed.model.llama.table import TABLE as LLAMA
from megabiomed.model.qwen3.hf import FORMAT
from megabiomed.model.tensors import TensorSpec, extended

_ATTENTION = "model.layers.{i}.self_attn"


def _head_norm(part: str) -> TensorSpec:
    return TensorSpec(f"{_ATTENTION}.{part}_norm.weight", ("d",), "whole", initial="ones")


TABLE = extended(
    LLAMA,
    {
        f"{_ATTENTION}.q_proj.weight": [_head_norm("q")],
        f"{_ATTENTION}.k_proj.weight": [_head_norm("k")],
    },
)


class Qwen3(Architecture):
    """Llama with norms of the query and key heads."""

    table = TABLE
    hugging_face = FORMAT
