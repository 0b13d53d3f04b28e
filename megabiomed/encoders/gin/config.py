"""Keys of the molecule encoders."""

from __future__ import annotations

from pathlib import Path

from pydantic import PositiveInt

from megabiomed.config.modalities import EncoderConfig


class GinConfig(EncoderConfig):
    """The molecule encoder: GIN of pretrain-gnns and GraphMVP (Hu et al. 2020; Liu et al. 2022), or another graph network."""

    kind: str = "gin"
    """gin: pretrain-gnns' GIN; gat: torch-geometric's graph attention (GATv2), for which no published weights are read; or
    an encoder of your own as package.module:ATTRIBUTE."""
    num_layers: PositiveInt = 5
    """Graph convolutions."""
    hidden_size: PositiveInt = 300
    """Width of an atom's embedding."""
    max_atoms: PositiveInt = 256
    """Larger molecules are skipped and counted."""
    init_from: Path | None = None
    """Weights: a state dict (.pth, .pt; read without executing it) or safetensors; null starts from random weights."""
