"""Keys of the protein encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config.modalities import CachedEncoderConfig, EncoderLoraConfig

EsmMatrix = Literal["query", "key", "value", "output", "fc1", "fc2"]


class EsmLoraConfig(EncoderLoraConfig):
    """LoRA of the protein encoder."""

    targets: list[EsmMatrix] = Field(["query", "value"], min_length=1)
    """Matrices of each layer that get an update (OpenBioMed: query, value)."""


class Esm2Config(CachedEncoderConfig):
    """The protein encoder: ESM-2 (Lin et al. 2023)."""

    kind: str = "esm2"
    """esm2, or an encoder of your own as package.module:ATTRIBUTE."""
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
    lora: EsmLoraConfig = Field(default_factory=EsmLoraConfig)
    """Updates in stages with `protein: lora`."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Esm2Config:
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} needs heads of an even size; change num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self
