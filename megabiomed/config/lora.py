"""Every key of low-rank adapters."""

from __future__ import annotations

from pydantic import Field, PositiveInt, field_validator

from megabiomed.config.base import Section
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.nearest import nearest


class LoraConfig(Section):
    """Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685) added to frozen matrices of the language model."""

    rank: PositiveInt = 16
    """Rank r of each adapter: W + alpha / r * B A, with A [r, inputs] and B [outputs, r]."""
    alpha: float = Field(32.0, gt=0)
    """Numerator of the scale alpha / rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is set to zero in training; the same ones on every topology."""
    targets: list[str] | None = Field(None, min_length=1)
    """Matrices that have adapters: any of the architecture's (Llama: q, k, v, o, gate, up, down); null: all of them."""

    @property
    def scale(self) -> float:
        """What B A x is multiplied with."""
        return self.alpha / self.rank

    @field_validator("targets")
    @classmethod
    def _once(cls, targets: list[str] | None) -> list[str] | None:
        if targets is not None and len(set(targets)) < len(targets):
            raise ValueError(f"targets {targets} repeat")
        return targets

    def check_targets(self, known: tuple[str, ...], kind: str) -> None:
        """Refuse targets that an architecture does not have.

        Args:
            known: those that it has.

        Raises:
            ConfigError: naming the nearest one.
        """
        for target in self.targets or ():
            if target not in known:
                near = nearest(target, list(known))
                raise ConfigError(
                    f"lora.targets names no matrix of {kind}", got=repr(target), expected=f"any of {', '.join(known)}",
                    do=f"did you mean {near!r}?" if near else None,
                )  # fmt: skip
