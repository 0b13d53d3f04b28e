"""Llama2 decoder blocks and pipeline stages, written without knowing how the matrices are spread.

Shapes: t tokens of one micro-batch (packed windows, flattened), h hidden_size, d head_dim, v vocab_size. A factory
(`Layers`, see parallelize.py) makes the matrices; with tensor parallelism over tp ranks and sequence parallelism the
residual stream between them is [t/tp, h], without it [t, h].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabiomed.config import ModelConfig
from megabiomed.kernels.document_attention import Documents, document_attention
from megabiomed.kernels.rope import apply_rope, rope_table


class Layers(Protocol):
    """What a block needs from its surroundings. Names are logical (Hugging Face) names."""

    tensor_parallel_size: int

    def norm(self, name: str) -> nn.Module:
        """RMSNorm over h."""

    def qkv(self, prefix: str) -> nn.Module:
        """[., h] -> [t, (heads + 2 kv_heads) d / tp], rows ordered q, k, v."""

    def gate_up(self, prefix: str) -> nn.Module:
        """[., h] -> [t, 2 intermediate / tp], rows ordered gate, up."""

    def row(self, name: str, inputs: int) -> nn.Module:
        """[t, inputs / tp] -> [., h], summed over the tensor ranks."""

    def embedding(self) -> nn.Module:
        """[t] token ids -> [., h]."""

    def head(self) -> nn.Module:
        """[., h] -> logits [t, v / tp]."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """[t] cross entropy of vocabulary-parallel logits, 0 where the label is masked."""


class Micro(Protocol):
    """The part of a micro-batch that stages read, each [t] (see data.packing.MicroBatch)."""

    @property
    def tokens(self) -> Tensor:
        """Token ids."""

    @property
    def labels(self) -> Tensor:
        """Next tokens, or IGNORE_INDEX."""

    @property
    def start(self) -> Tensor:
        """First token of each token's document part."""

    @property
    def end(self) -> Tensor:
        """One past its last token."""

    @property
    def positions(self) -> Tensor:
        """Index inside the document part."""


class Block(nn.Module):
    """Pre-norm attention and SwiGLU with residual connections.

    Args:
        recompute: "none", "selective" (attention core and SwiGLU) or "full" (applied by the stage).
    """

    def __init__(self, config: ModelConfig, layers: Layers, index: int, recompute: str) -> None:
        super().__init__()
        tp, prefix = layers.tensor_parallel_size, f"model.layers.{index}"
        self.heads, self.kv_heads = config.num_attention_heads // tp, config.num_key_value_heads // tp
        self.head_dim, self.recompute = config.head_dim, recompute
        self.input_layernorm = layers.norm(f"{prefix}.input_layernorm.weight")
        self.qkv = layers.qkv(f"{prefix}.self_attn")
        self.o_proj = layers.row(f"{prefix}.self_attn.o_proj.weight", config.hidden_size)
        self.post_attention_layernorm = layers.norm(f"{prefix}.post_attention_layernorm.weight")
        self.gate_up = layers.gate_up(f"{prefix}.mlp")
        self.down_proj = layers.row(f"{prefix}.mlp.down_proj.weight", config.intermediate_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents) -> Tensor:
        """x [., h] -> [., h]; cos, sin [t, d/2]."""
        qkv = self.qkv(self.input_layernorm(x))  # [t, (heads + 2 kv_heads) d / tp]
        x = x + self.o_proj(self._maybe_recompute(self._attend, qkv, cos, sin, documents))
        gate_up = self.gate_up(self.post_attention_layernorm(x))  # [t, 2 i / tp]
        return x + self.down_proj(self._maybe_recompute(swiglu, gate_up))

    def _maybe_recompute(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        if self.recompute == "selective" and torch.is_grad_enabled():
            return _checkpoint(function, *inputs)
        return function(*inputs)

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, documents: Documents) -> Tensor:
        d = self.head_dim
        q, k, v = qkv.split([self.heads * d, self.kv_heads * d, self.kv_heads * d], dim=-1)
        q = apply_rope(q.unflatten(-1, (-1, d)), cos, sin)  # [t, heads/tp, d]
        k = apply_rope(k.unflatten(-1, (-1, d)), cos, sin)  # [t, kv_heads/tp, d]
        return document_attention(q, k, v.unflatten(-1, (-1, d)), documents).flatten(1)  # [t, h/tp]


class LlamaChunk(nn.Module):
    """A consecutive range of blocks; the first chunk also embeds, the last also computes the loss.

    Args:
        first, last: block range [first, last) of the whole model.
    """

    def __init__(self, config: ModelConfig, layers: Layers, first: int, last: int, recompute: str) -> None:
        super().__init__()
        self.config, self.recompute, self.loss = config, recompute, layers.loss
        self.embed = layers.embedding() if first == 0 else None
        self.blocks = nn.ModuleList(Block(config, layers, index, recompute) for index in range(first, last))
        is_last = last == config.num_hidden_layers
        self.norm = layers.norm("model.norm.weight") if is_last else None
        self.head = layers.head() if is_last else None

    def forward(self, x: Tensor | None, batch: Micro, return_logits: bool = False) -> Tensor:
        """One micro-batch through this chunk.

        Args:
            x: hidden states [., h] from the previous chunk; ignored by the first chunk.

        Returns:
            hidden states [., h]; from the last chunk the summed loss [1] fp32, or logits [t, v/tp].
        """
        if self.embed is not None:
            x = self.embed(batch.tokens)
            rows = getattr(batch, "rows", None)
            if rows is not None:  # embeddings of molecules and proteins in the place of placeholder tokens
                x = x.index_copy(0, batch.insert_at, rows.to(x.dtype))  # type: ignore[attr-defined]
        assert x is not None
        cos, sin = self._rope(batch.positions)
        documents = documents_of(batch)
        for block in self.blocks:
            if self.recompute == "full" and torch.is_grad_enabled():
                x = _checkpoint(block, x, cos, sin, documents)
            else:
                x = block(x, cos, sin, documents)
        if self.head is None or self.norm is None:
            return x
        logits = self.head(self.norm(x))  # [t, v/tp]
        return logits if return_logits else self.loss(logits, batch.labels).sum().reshape(1)

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        cos, sin = rope_table(
            config.max_position_embeddings, config.head_dim, config.rope_theta, positions.device
        )  # [max_position, d/2]
        return cos[positions], sin[positions]  # [t, d/2]


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [t, 2 i] -> [t, i] (Shazeer 2020)."""
    gate, up = gate_up.chunk(2, dim=-1)
    return nn.functional.silu(gate) * up  # [t, i/tp]


def documents_of(batch: Micro) -> Documents:
    """The micro-batch's document bounds, made once and kept on the batch (several chunks of a rank share them)."""
    found = getattr(batch, "_documents", None)
    if found is None:
        found = Documents(batch.start, batch.end)
        object.__setattr__(batch, "_documents", found)
    return found


def chunk_ranges(layers: int, chunks: int) -> list[tuple[int, int]]:
    """Split the blocks over the chunks in order; earlier chunks take the remainder (the last one has the head)."""
    share, extra = divmod(layers, chunks)
    edges = [index * share + min(index, extra) for index in range(chunks + 1)]
    return list(zip(edges[:-1], edges[1:]))


def _checkpoint(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    # No dropout anywhere, so there is no random state to keep.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
