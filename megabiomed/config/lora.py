"""Every key of low-rank adapters."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field, PositiveInt, field_validator

from megabiomed.config.base import Section

Target = Literal["q", "k", "v", "o", "gate", "up", "down"]
TARGETS: tuple[Target, ...] = get_args(Target)


class LoraConfig(Section):
    """Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) added to frozen matrices of the language model."""

    rank: PositiveInt = 16
    """Rank r of each adapter: W + alpha / r * B A, with A [r, inputs] and B [outputs, r]."""
    alpha: float = Field(32.0, gt=0)
    """Numerator of the scale alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is set to zero in training; the same ones on every topology."""
    targets: list[Target] = Field(default_factory=lambda: list(TARGETS), min_length=1)
    """Matrices that have adapters: any of q, k, v, o, gate, up, down."""

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return self.alpha / self.rank

    @field_validator("targets")
    @classmethod
    def _once_in_order(cls, targets: list[Target]) -> list[Target]:
        # In one order, so that two configurations with the same adapters are equal and a resume compares them as such.
        if len(set(targets)) < len(targets):
            raise ValueError(f"targets {targets} repeat")
        return [target for target in TARGETS if target in targets]
