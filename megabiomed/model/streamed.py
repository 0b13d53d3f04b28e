"""The blocks in one process, one block in memory at a time: the reference that certificates compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from megabiomed.config.parallel import KernelsConfig
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.rms_norm import add_rms_norm, rms_norm
from megabiomed.model.architecture import Architecture
from megabiomed.model.rows import TokenRows
from megabiomed.model.tensors import LogicalTensor

Read = Callable[[str], Tensor]


class PlainLayers:
    """Matrices of one process, filled as they are made; implements `Layers` without a process group.

    Args:
        read: gives a logical tensor by name, whole, on the device and in the type to compute with.
    """

    def __init__(self, architecture: Architecture, read: Read) -> None:
        self._architecture, self._read = architecture, read
        self.tensor_parallel_size = 1
        self.rows = TokenRows()
        self.kernels = KernelsConfig()

    def norm(self, name: str) -> nn.Module:
        """RMSNorm over h, of the stream and what is pending to be added to it."""
        return _StreamNorm(self._read(name), self._architecture.config.rms_norm_eps, self.kernels.norm)

    def head_norm(self, name: str) -> nn.Module:
        """RMSNorm over d: [t, heads, d] -> the same shape."""
        return _HeadNorm(self._read(name), self._architecture.config.rms_norm_eps, self.kernels.norm)

    def linear(self, name: str) -> nn.Module:
        """[t, inputs] -> [t, outputs], fused ones in the order of the table."""
        matrix = self._architecture.matrices[name]
        bias = self._joined(matrix.biases) if matrix.biases else None
        return _linear(self._joined(matrix.weights), bias)

    def whole_heads(self) -> None:
        """One process holds whole heads."""

    def _joined(self, tensors: Sequence[LogicalTensor]) -> Tensor:
        held = [self._read(tensor.name) for tensor in tensors]
        return torch.cat(held) if len(held) > 1 else held[0]

    def embedding(self) -> nn.Module:
        """[t] token ids -> [t, h]."""
        return nn.Embedding.from_pretrained(self._read(self._architecture.embedding.name))

    def head(self) -> nn.Module:
        """[t, h] -> logits [t, v]."""
        return _linear(self._read(self._architecture.head.name), None)


class _Norm(nn.Module):
    def __init__(self, weight: Tensor, eps: float, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self.backend = backend


class _StreamNorm(_Norm):
    def forward(self, x: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if pending is None:
            return rms_norm(x, self.weight, self.eps, self.backend), x
        return add_rms_norm(pending, x, self.weight, self.eps, self.backend)


class _HeadNorm(_Norm):
    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps, self.backend)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # Without memory: the weight is replaced at once.
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


@torch.no_grad()
def streamed_logits(
    architecture: Architecture, read: Read, tokens: Tensor, tick: Callable[[], None] = lambda: None
) -> Tensor:
    """Logits of the whole model with the weights of one block in memory at a time.

    Args:
        tokens: [b, s] ids, one document a row.
        tick: called after each block.

    Returns:
        [b, s, v] in the type that `read` gives.
    """
    rows, length = tokens.shape
    layers, device = PlainLayers(architecture, read), tokens.device
    first = torch.arange(0, rows * length, length, dtype=torch.int32, device=device).repeat_interleave(length)  # [t]
    documents = Documents(first, first + length)
    cos, sin = architecture.rope().at(torch.arange(length, device=device).repeat(rows))  # [t, d/2]
    x = layers.embedding()(tokens.flatten())  # [t, h]
    pending: Tensor | None = None
    for index in range(architecture.config.num_hidden_layers):
        x, pending = architecture.block(layers, index, "none")(x, pending, cos, sin, documents)
        tick()
    normed, _ = layers.norm(architecture.final_norm.name)(x, pending)
    return layers.head()(normed).unflatten(0, (rows, length))  # [b, s, v]
