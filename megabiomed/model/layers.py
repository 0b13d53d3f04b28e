"""What blocks are made of, without saying how the matrices are spread: over tensor ranks (parallelize.py), or in one process
(streamed.py)."""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor, nn

from megabiomed.config import KernelsConfig
from megabiomed.kernels.dropout import Noise
from megabiomed.model.rows import TokenRows


class Layers(Protocol):
    """Makes the parts of a model. What they compute follows from their names in the architecture's table.

    Shapes: t tokens of a micro-batch. Over tp tensor ranks with sequence parallelism [., h] is [t/tp, h], else [t, h].
    """

    tensor_parallel_size: int
    rows: TokenRows
    kernels: KernelsConfig

    def norm(self, name: str) -> nn.Module:
        """RMSNorm over h: (x, pending or None) -> (norm of their sum, their sum)."""

    def head_norm(self, name: str) -> nn.Module:
        """RMSNorm over d of this rank's heads: [t, heads/tp, d] -> the same shape."""

    def linear(self, name: str) -> nn.Module:
        """A matrix by its local name (`...self_attn.qkv`), with its bias where the table has one.

        Cut by rows: [., inputs] -> [t, outputs/tp], fused ones in the order of the table. Cut by columns:
        [t, inputs/tp] -> [., outputs], summed over the tensor ranks.
        """

    def whole_heads(self) -> nn.Module | None:
        """[t, local rows of q, k and v] -> [t, (heads + 2 kv_heads) d] of whole heads; None where the rows are whole heads."""

    def embedding(self) -> nn.Module:
        """[t] token ids -> [., h]."""

    def head(self) -> nn.Module:
        """[., h] -> logits [t, v / tp]; with labels [t] the summed loss [1] instead."""


class Adapted(nn.Module):
    """A frozen linear and its low-rank adapter (see lora.py)."""

    def __init__(self, base: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.base, self.adapter = base, adapter

    def forward(self, x: Tensor, noise: Noise | None = None) -> Tensor:
        """As the frozen linear; noise names the dropout of the adapter's input."""
        return cast(Tensor, self.adapter(x, self.base(x), noise))


def through(layer: nn.Module, x: Tensor, noise: Noise | None) -> Tensor:
    """A linear; only those with an adapter know of noise."""
    return cast(Tensor, layer(x, noise) if noise is not None and isinstance(layer, Adapted) else layer(x))
