"""Adaptors: rows of an encoder become embeddings of the language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabiomed.config.modalities import AdaptorConfig


class Projector(nn.Module):
    """One matrix (BioMedGPT), or two with a GELU between (LLaVA-1.5, Liu et al. 2024); a row stays a row."""

    def __init__(self, config: AdaptorConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        if config.kind == "linear":
            self.layers: nn.Module = nn.Linear(inputs, outputs)
        else:
            self.layers = nn.Sequential(nn.Linear(inputs, outputs), nn.GELU(), nn.Linear(outputs, outputs))

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """[t, w] -> [t, h]."""
        return self.layers(x)  # [t, h]


class Resampler(nn.Module):
    """Learned queries attend to the rows of each item (Alayrac et al. 2022, Flamingo): q embeddings whatever its length."""

    def __init__(self, config: AdaptorConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.heads = max(n for n in (1, 2, 4, 8) if outputs % n == 0)
        self.queries = nn.Parameter(torch.randn(config.num_queries, outputs) * 0.02)
        self.key_value = nn.Linear(inputs, 2 * outputs)
        self.out = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor, rows: Sequence[int]) -> Tensor:
        """[t, w] of items with `rows` rows each -> [items * q, h]."""
        key, value = (self._heads(part) for part in self.key_value(x).chunk(2, dim=-1))  # [heads, t, d]
        query = self._heads(self.queries).to(key.dtype)
        # Item by item, so that none attends to the rows of another.
        mixed = [
            F.scaled_dot_product_attention(query[None], k[None], v[None])[0].transpose(0, 1).flatten(1)
            for k, v in zip(key.split(list(rows), dim=1), value.split(list(rows), dim=1))
        ]
        # Without items the output still hangs on the inputs: sharded encoders must go backward on every rank.
        empty = self.queries[:0] + x.sum() * 0 + value.sum() * 0
        return self.out(torch.cat([empty.to(x.dtype), *mixed]))  # [items q, h]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)


def build_adaptor(config: AdaptorConfig, inputs: int, outputs: int) -> nn.Module:
    """The configured adaptor from encoder width to the hidden size of the language model."""
    return (Resampler if config.kind == "resampler" else Projector)(config, inputs, outputs)


def rows_out(config: AdaptorConfig, rows: int) -> int:
    """Embeddings that the language model sees of an item with so many encoder rows."""
    return config.num_queries if config.kind == "resampler" else rows


def adaptor_parameters(config: AdaptorConfig, inputs: int, outputs: int) -> int:
    """Parameters of an adaptor from encoder width to hidden size."""
    square = outputs * outputs + outputs
    if config.kind == "resampler":
        return config.num_queries * outputs + 2 * (inputs * outputs + outputs) + square
    return inputs * outputs + outputs + (square if config.kind == "mlp" else 0)
