"""Low-rank adaptation of encoder matrices (Hu et al. 2021, arXiv 2106.09685): W x + (alpha / r) B A x, with W frozen.

A matrix keeps its names (`q_proj.weight`), and gains `q_proj.lora_A.weight` and `q_proj.lora_B.weight`, as peft calls them. B
begins at zero, so that a fresh update changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabiomed.config.modalities import EncoderLoraConfig
from megabiomed.kernels.dropout import Noise, drop

_MOST_ROWS = 1 << 16  # of one item; items take places one after the other


@dataclass
class ItemDropout:
    """Dropout whose masks are a function of the item, so that neither recomputation nor topology changes them.

    Attributes:
        rows, noises: of the items of the batch that is being encoded; without noises nothing is dropped.
    """

    p: float
    rows: list[int] = field(default_factory=list)
    noises: list[Noise] = field(default_factory=list)

    def __call__(self, x: Tensor, layer: str) -> Tensor:
        """[t, w], some of it zero, the rest scaled up; each layer has its own mask."""
        if not self.p or not self.noises:
            return x
        parts = x.split(self.rows)
        return torch.cat([drop(part, noise, self.p, layer) for part, noise in zip(parts, self.noises)])  # [t, w]


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank update; made of the layer that it takes the place of."""

    def __init__(self, base: nn.Linear, config: EncoderLoraConfig, dropout: ItemDropout, layer: str) -> None:
        # Without memory: both tensors are replaced at once.
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = config.alpha / config.r
        self.dropout = dropout
        self.layer = layer
        self.lora_A = nn.Linear(base.in_features, config.r, bias=False)
        self.lora_B = nn.Linear(config.r, base.out_features, bias=False)
        # As peft begins.
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[t, in] -> [t, out]."""
        update = self.lora_B(self.lora_A(self.dropout(x, self.layer)))
        return F.linear(x, self.weight, self.bias) + self.scale * update

    def merged(self) -> Tensor:
        """W + (alpha / r) B A."""
        return self.weight.detach() + self.scale * (self.lora_B.weight @ self.lora_A.weight).detach()


def add_lora(encoder: nn.Module, config: EncoderLoraConfig, matrices: Collection[str], seed: int) -> None:
    """Put updates beside the linear layers of an encoder whose names end in one of `matrices`."""
    torch.manual_seed(seed)
    dropout = ItemDropout(config.dropout)
    encoder.lora_dropout = dropout
    for path, child in list(encoder.named_modules()):
        parent, _, name = path.rpartition(".")
        if isinstance(child, nn.Linear) and name in matrices:
            encoder.get_submodule(parent).register_module(name, LoraLinear(child, config, dropout, path))


def is_lora(name: str) -> bool:
    """Whether a parameter belongs to an update."""
    return ".lora_A." in name or ".lora_B." in name


def item_noise(seed: int, step: int, number: int) -> Noise:
    """Names the random numbers of item `number` of a step's global batch."""
    return Noise.of_step(seed, step, number * _MOST_ROWS)


def set_dropout(encoder: nn.Module, rows: Sequence[int], noises: Sequence[Noise]) -> None:
    """Say which items the next batch holds; without noises nothing is dropped."""
    dropout = getattr(encoder, "lora_dropout", None)
    if dropout is not None:
        dropout.rows, dropout.noises = list(rows), list(noises)


def merged_state(encoder: nn.Module) -> dict[str, Tensor]:
    """State dict of the encoder with its updates added to the matrices, under the names of the original."""
    state = {name: value for name, value in encoder.state_dict().items() if not is_lora(f".{name}")}
    for name, module in encoder.named_modules():
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"] = module.merged()
    return state
