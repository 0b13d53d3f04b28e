"""Kinds of rotary position embedding: each says which angles a position has; kernels/rope.py rotates by them.

Every kernel takes cos and sin of the tokens, so a kind is nothing but its frequencies and a factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, log, pi
from typing import Protocol

import torch
from torch import Tensor

from megabiomed.config.models import ModelConfig
from megabiomed.kernels.rope import rope_frequencies, rope_table


class Rope(Protocol):
    """The angles of one model."""

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each [t, d/2] fp32, at positions [t] inside the documents; d is the head size."""


@dataclass(frozen=True)
class PlainRope:
    """Su et al. 2021: pair i turns by theta^(-2i/d) per token.

    Attributes:
        length: positions of the table.
    """

    theta: float
    head_size: int
    length: int

    @property
    def scale(self) -> float:
        """What cos and sin are multiplied with."""
        return 1.0

    def frequencies(self) -> Tensor:
        """[d/2] fp32."""
        return rope_frequencies(self.head_size, self.theta)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """See `Rope`."""
        cos, sin = _table(self, positions.device)  # [length, d/2]
        return cos[positions], sin[positions]  # [t, d/2]


# One table per model and device, for all chunks of the process.
@lru_cache(maxsize=8)
def _table(rope: PlainRope, device: torch.device) -> tuple[Tensor, Tensor]:
    return rope_table(rope.frequencies(), rope.length, device, rope.scale)


@dataclass(frozen=True)
class LinearRope(PlainRope):
    """Position interpolation (Chen et al. 2023, arXiv 2306.15595): every pair turns more slowly by the same factor."""

    factor: float

    def frequencies(self) -> Tensor:
        """[d/2] fp32."""
        return super().frequencies() / self.factor


@dataclass(frozen=True)
class Llama3Rope(PlainRope):
    """Llama 3.1: pairs with long wavelengths turn more slowly, those with short ones as before, smoothly in between."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def frequencies(self) -> Tensor:
        """[d/2] fp32."""
        plain = super().frequencies()
        low = self.low_freq_factor
        high = self.high_freq_factor
        original = self.original_max_position_embeddings
        wavelength = 2 * pi / plain
        slow = torch.where(wavelength > original / low, plain / self.factor, plain)
        share = (original / wavelength - low) / (high - low)  # of the plain frequency, in between
        between = (wavelength >= original / high) & (wavelength <= original / low)
        return torch.where(between, (1 - share) * slow / self.factor + share * slow, slow)


@dataclass(frozen=True)
class YarnRope(PlainRope):
    """YaRN (Peng et al. 2023, arXiv 2309.00071): pairs with few turns in the original length turn more slowly, and cos and sin
    carry the temperature of the attention."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float
    beta_slow: float
    truncate: bool
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None

    @property
    def scale(self) -> float:
        """What cos and sin are multiplied with (section 3.4 of the paper)."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._temperature(self.mscale) / self._temperature(self.mscale_all_dim)
        return self._temperature(1.0)

    def _temperature(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * log(self.factor) + 1.0

    def frequencies(self) -> Tensor:
        """[d/2] fp32."""
        d = self.head_size
        powers = self.theta ** (torch.arange(0, d, 2).float() / d)
        low, high = self._pair(self.beta_fast), self._pair(self.beta_slow)  # where turns become few
        if self.truncate:
            low, high = floor(low), ceil(high)
        low, high = max(low, 0), min(high, d - 1)
        if low == high:
            high += 0.001  # no division by zero
        ramp = (torch.arange(d // 2).float() - low) / (high - low)
        plain = 1 - ramp.clamp(0, 1)  # share of the plain frequency
        return 1.0 / (self.factor * powers) * (1 - plain) + 1.0 / powers * plain

    def _pair(self, turns: float) -> float:
        """Index of the pair that turns so often in the original length."""
        ratio = self.original_max_position_embeddings / (turns * 2 * pi)
        return self.head_size * log(ratio) / (2 * log(self.theta))


_SCALED = {"linear": LinearRope, "llama3": Llama3Rope, "yarn": YarnRope}


def rope_of(config: ModelConfig) -> Rope:
    """The embedding that `rope_theta` and `rope_scaling` name."""
    plain = config.rope_theta, config.head_size, config.max_position_embeddings
    if config.rope_scaling is None:
        return PlainRope(*plain)
    values = config.rope_scaling.values()
    return _SCALED[values.pop("rope_type")](*plain, **values)
