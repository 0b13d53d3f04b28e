"""Every key of scaled rotary position embeddings."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config.base import Section

ROPE_KEYS: dict[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
"""The keys that each type has."""
_DEFAULTS = {"yarn": {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}}
_OPTIONAL = ("attention_factor", "mscale", "mscale_all_dim")
BY_LENGTH = {
    "dynamic": "its frequencies depend on the length of each sequence, and a packed window holds documents of many lengths",
    "longrope": "its frequencies change with the length of a sequence, and a packed window holds documents of many lengths",
}
"""Types that are refused, with the reason."""


class RopeScaling(Section):
    """How RoPE's frequencies are scaled for contexts longer than those of the first pretraining; names of transformers."""

    rope_type: Literal["linear", "llama3", "yarn"]
    """linear: all frequencies / factor (Chen et al. 2023, arXiv 2306.15595); llama3: of Llama 3.1; yarn: Peng et al. 2023,
    arXiv 2309.00071."""
    factor: float = Field(gt=0)
    """By how much contexts become longer."""
    original_max_position_embeddings: PositiveInt | None = None
    """llama3, yarn: length of contexts in the first pretraining, in tokens."""
    low_freq_factor: float | None = Field(None, gt=0)
    """llama3: wavelengths above original_max_position_embeddings / this one are scaled fully."""
    high_freq_factor: float | None = Field(None, gt=0)
    """llama3: wavelengths below original_max_position_embeddings / this one are not scaled."""
    attention_factor: float | None = Field(None, ge=0)
    """yarn: what cos and sin are multiplied with; null computes it from factor (and mscale, mscale_all_dim)."""
    beta_fast: float | None = Field(None, gt=0)
    """yarn: pairs with more turns in the original length are not scaled; 32 if left out."""
    beta_slow: float | None = Field(None, gt=0)
    """yarn: pairs with fewer turns in the original length are scaled fully; 1 if left out."""
    mscale: float | None = None
    """yarn: see attention_factor."""
    mscale_all_dim: float | None = None
    """yarn: see attention_factor."""
    truncate: bool | None = None
    """yarn: round the range between beta_fast and beta_slow to whole pairs; true if left out."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("rope_type"), str):
            return values
        kind = values["rope_type"]
        if kind in BY_LENGTH:
            raise ValueError(f"rope_type {kind} is not computed: {BY_LENGTH[kind]}")
        # A stored configuration spells out null for keys of the other types: they count as left out.
        return {**_DEFAULTS.get(kind, {}), **{key: value for key, value in values.items() if value is not None}}

    @model_validator(mode="after")
    def _of_its_type(self) -> RopeScaling:
        keys = ROPE_KEYS[self.rope_type]
        for name in type(self).model_fields:
            given = getattr(self, name) is not None
            if given and name != "rope_type" and name not in keys:
                raise ValueError(f"{name} is no key of rope_type {self.rope_type}; leave it out")
            if not given and name in keys and name not in _OPTIONAL:
                raise ValueError(f"rope_type {self.rope_type} needs {name}")
        # The ramp between the two divides by their difference.
        if self.rope_type == "llama3" and self.values()["low_freq_factor"] >= self.values()["high_freq_factor"]:
            raise ValueError("low_freq_factor must be below high_freq_factor")
        return self

    def values(self) -> dict[str, Any]:
        """The keys that are set, by name."""
        return self.model_dump(mode="json", exclude_none=True)
