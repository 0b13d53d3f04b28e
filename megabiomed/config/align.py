"""Every key of an alignment run, with its meaning, unit and default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, model_validator

from megabiomed.config.base import Section

Placement = Literal["replicate", "zero3"]


class GinConfig(Section):
    """The molecule encoder: GIN of pretrain-gnns and GraphMVP (Hu et al. 2020; Liu et al. 2022)."""

    num_layers: PositiveInt = 5
    """Graph convolutions."""
    hidden_size: PositiveInt = 300
    """Width of an atom's embedding."""
    max_atoms: PositiveInt = 256
    """Larger molecules are skipped and counted."""
    init_from: Path | None = None
    """Weights: a state dict (.pth, .pt; read without executing it) or safetensors; null starts from random weights."""
    placement: Placement = "replicate"
    """Where parameters live: on every rank, or sharded over all ranks of the job (ZeRO-3; pays only when trained)."""


class Esm2Config(Section):
    """The protein encoder: ESM-2 (Lin et al. 2023)."""

    num_layers: PositiveInt = 6
    """Transformer layers."""
    hidden_size: PositiveInt = 320
    """Width of a residue's embedding."""
    num_attention_heads: PositiveInt = 20
    """Attention heads."""
    max_residues: PositiveInt = 1022
    """Residues that are kept of a protein; the rest is cut off and counted."""
    activation_checkpointing: bool = True
    """Recompute each layer in the backward pass."""
    init_from: Path | None = None
    """Weights: an official fair-esm .pt (read without executing it) or a Hugging Face EsmModel folder."""
    placement: Placement = "replicate"
    """Where parameters live: on every rank, or sharded over all ranks of the job (ZeRO-3)."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Esm2Config:
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} needs heads of an even size; change num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self
