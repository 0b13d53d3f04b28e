"""Which backend every operation of a run takes, known before anything is built."""

from __future__ import annotations

import torch

from megabiomed.config import KernelsConfig
from megabiomed.kernels import document_attention, linear_cross_entropy, rms_norm, swiglu
from megabiomed.kernels.dispatch import Choice, site_on


def plan(
    wishes: KernelsConfig, device: torch.device, dtype: torch.dtype, hidden_size: int, head_dim: int
) -> dict[str, Choice]:
    """The choice of every operation; raises ConfigError when a forced backend cannot serve."""
    wide = site_on(device, dtype, hidden_size)
    return {
        "attention": document_attention.choice(
            site_on(device, dtype, head_dim, wishes.deterministic), wishes.attention
        ),
        "norm": rms_norm.choice(wide, wishes.norm),
        "swiglu": swiglu.choice(wide, wishes.swiglu),
        "loss": linear_cross_entropy.choice(wide, wishes.loss),
    }


def describe(choices: dict[str, Choice]) -> str:
    """One line: operation and backend."""
    return ", ".join(f"{op} {choice.name}" for op, choice in choices.items())
