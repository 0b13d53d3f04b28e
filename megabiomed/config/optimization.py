"""Keys of the optimizer and of its learning-rate schedule."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from megabiomed.config.base import Section
from megabiomed.config.optimizers import OPTIMIZERS, SCHEDULES, Optimizer


class OptimizerConfig(Section):
    """The optimizer and its learning-rate schedule."""

    kind: str = "adamw"
    """Update rule: adamw (Loshchilov & Hutter 2019), or one's own as package.module:attribute, an `Optimizer` of
    megabiomed.config.optimizers."""
    # That of BioMedGPT-LM-7B.
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Final learning rate as a share of the peak."""
    schedule: str = "cosine"
    """Shape of the decay: cosine, linear, 1-sqrt, constant, or one's own function as package.module:attribute, from the share
    of the decay that is done (0 to 1) to the share of the peak above the final rate."""
    decay_steps: int | None = Field(None, ge=0)
    """Steps of the decay, the last of the run; before them the rate stays (warm-up, stable, decay; 0: it stays to the end).
    null: the decay takes all steps after warm-up."""
    cooldown_steps: int = Field(0, ge=0)
    """With decay_steps: steps after warm-up in which the rate falls as a cosine to stable_ratio (Ibrahim et al. 2024)."""
    stable_ratio: float = Field(1.0, gt=0, le=1)
    """With decay_steps: the rate between cooldown and decay as a share of the peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; null uses warmup_ratio."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Warm-up as a share of all steps, used when warmup_steps is null."""
    lr_scales: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors of the learning rate by patterns of tensor names, as of file names: `{"lm_head.*": 0.5}`; of several that match
    a tensor the first counts. Encoders and adaptors are `encoder.NAME.*` and `adaptor.NAME.*`, adapters `*.lora_*`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay; never applied to norm weights and biases."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment; the momentum of an optimizer with one."""
    # 0.95 as for GPT-3 and Llama; torch's 0.999 averages over a thousand steps.
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Term added to the denominator."""
    clip_grad_norm: float = Field(1.0, ge=0)
    """Global gradient norm to clip to; 0 switches clipping off."""

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        # By name alone: where a run is only read, the package with its rule need not be installed.
        OPTIMIZERS.check(name)
        return name

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, name: str) -> str:
        SCHEDULES.check(name)
        return name

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimizerConfig:
        if self.decay_steps is None and (self.cooldown_steps or self.stable_ratio != 1):
            raise ValueError(
                "cooldown_steps and stable_ratio need decay_steps; set it (0: no decay after the stable phase)"
            )
        if (self.stable_ratio != 1) != bool(self.cooldown_steps):
            raise ValueError("cooldown_steps and stable_ratio below 1 belong together; set both or neither")
        # The decay would raise the rate.
        if self.stable_ratio < self.min_lr_ratio:
            raise ValueError(f"min_lr_ratio {self.min_lr_ratio} is above stable_ratio {self.stable_ratio}; lower it")
        return self

    @property
    def rule(self) -> Optimizer:
        """The entry of `kind`. A `ConfigError` if it cannot be imported."""
        return OPTIMIZERS.find(self.kind)
