"""The Llama2 blocks in one process, one block in memory at a time: the reference that certificates compute with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from megabiomed.config.schema import KernelsConfig, ModelConfig
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.rms_norm import add_rms_norm, rms_norm
from megabiomed.kernels.rope import rope_table
from megabiomed.model.decoder import Block
from megabiomed.model.hf_folder import EMBEDDING, HEAD
from megabiomed.model.rows import TokenRows

Read = Callable[[str], Tensor]


class PlainLayers:
    """Matrices of one process, filled as they are made; implements `Layers` without a process group.

    Args:
        read: gives a logical tensor by name, whole, on the device and in the type to compute with.
    """

    def __init__(self, config: ModelConfig, read: Read) -> None:
        self._config, self._read = config, read
        self.tensor_parallel_size, self.rows, self.kernels = 1, TokenRows(), KernelsConfig()

    def norm(self, name: str) -> nn.Module:
        """RMSNorm over h, of the stream and what is pending to be added to it."""
        return _Norm(self._read(name), self._config.rms_norm_eps, self.kernels.norm)

    def qkv(self, prefix: str) -> nn.Module:
        """[t, h] -> [t, (heads + 2 kv_heads) d], rows ordered q, k, v."""
        return _linear(torch.cat([self._read(f"{prefix}.{part}_proj.weight") for part in "qkv"]))

    def gate_up(self, prefix: str) -> nn.Module:
        """[t, h] -> [t, 2 intermediate], rows ordered gate, up."""
        return _linear(torch.cat([self._read(f"{prefix}.{part}_proj.weight") for part in ("gate", "up")]))

    def row(self, name: str, inputs: int) -> nn.Module:
        """[t, inputs] -> [t, h]."""
        return _linear(self._read(name))

    def embedding(self) -> nn.Module:
        """[t] token ids -> [t, h]."""
        return nn.Embedding.from_pretrained(self._read(EMBEDDING))

    def head(self) -> nn.Module:
        """[t, h] -> logits [t, v]."""
        return _linear(self._read(HEAD))


class _Norm(nn.Module):
    def __init__(self, weight: Tensor, eps: float, backend: str) -> None:
        super().__init__()
        self.weight, self.eps, self.backend = nn.Parameter(weight, requires_grad=False), eps, backend

    def forward(self, x: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if pending is None:
            return rms_norm(x, self.weight, self.eps, self.backend), x
        return add_rms_norm(pending, x, self.weight, self.eps, self.backend)


def _linear(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


@torch.no_grad()
def streamed_logits(config: ModelConfig, read: Read, tokens: Tensor, tick: Callable[[], None] = lambda: None) -> Tensor:
    """Logits of the whole model with the weights of one block in memory at a time.

    Args:
        tokens: [b, s] ids, one document a row.
        tick: called after each block.

    Returns:
        [b, s, v] in the type that `read` gives.
    """
    rows, length = tokens.shape
    layers, device = PlainLayers(config, read), tokens.device
    first = torch.arange(0, rows * length, length, dtype=torch.int32, device=device).repeat_interleave(length)  # [t]
    documents = Documents(first, first + length)
    cos, sin = rope_table(config.max_position_embeddings, config.head_dim, config.rope_theta, device)
    positions = torch.arange(length, device=device).repeat(rows)  # [t]
    x = layers.embedding()(tokens.flatten())  # [t, h]
    pending: Tensor | None = None
    for index in range(config.num_hidden_layers):
        x, pending = Block(config, layers, index, "none")(x, pending, cos[positions], sin[positions], documents)
        tick()
    normed, _ = layers.norm("model.norm.weight")(x, pending)
    return layers.head()(normed).unflatten(0, (rows, length))  # [b, s, v]
