"""Names and shapes of low-rank adapters as logical tensors; the modules are in lora.py."""

from __future__ import annotations

from torch import nn

from megabiomed.config.lora import LoraConfig
from megabiomed.config.schema import ModelConfig
from megabiomed.model.hf_folder import logical_tensors


def short(matrix: str) -> str:
    """`q` of `model.layers.0.self_attn.q_proj.weight`."""
    return matrix.removesuffix("_proj.weight").rsplit(".", 1)[-1]


def factor_names(matrix: str) -> tuple[str, str]:
    """Logical names of A and B of a matrix: those of peft, without its prefix."""
    stem = matrix.removesuffix(".weight")
    return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight"


def is_replicated(name: str) -> bool:
    """Whether every tensor rank holds the whole factor of this name."""
    row_parallel = "o_proj." in name or "down_proj." in name
    return name.endswith(".lora_B.weight" if row_parallel else ".lora_A.weight")


def freeze_base(stage: nn.Module) -> None:
    """Leave only adapters trainable."""
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(name.endswith((".lora_A", ".lora_B")))


def trained_tensors(model: ModelConfig, lora: LoraConfig | None) -> dict[str, tuple[int, ...]]:
    """Name and full shape of every logical tensor that is trained: the whole model, or its adapters."""
    if lora is None:
        return logical_tensors(model)
    found: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in adapted_matrices(model, lora).items():
        a, b = factor_names(name)
        found |= {a: (lora.rank, inputs), b: (outputs, lora.rank)}
    return found


def adapted_matrices(model: ModelConfig, lora: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Name and full shape of every matrix that has an adapter."""
    return {
        name: shape
        for name, shape in logical_tensors(model).items()
        if name.endswith("_proj.weight") and short(name) in lora.targets
    }
