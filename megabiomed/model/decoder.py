"""Llama2 decoder blocks and pipeline stages, written without knowing how the matrices are spread.

Shapes: t tokens of one micro-batch (packed windows, flattened), h hidden_size, d head_dim, v vocab_size. A factory
(`Layers`, see parallelize.py) makes the matrices; with tensor parallelism over tp ranks and sequence parallelism the
residual stream between them is [t/tp, h], without it [t, h].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabiomed.config import KernelsConfig, ModelConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.kernels.document_attention import Heads, rope_attention
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.dropout import Noise
from megabiomed.kernels.rope import rope_table
from megabiomed.kernels.shared_prefix import SharedPrefixes, shared_prefix_attention
from megabiomed.kernels.swiglu import swiglu
from megabiomed.model.rows import TokenRows


class Layers(Protocol):
    """What a block needs from its surroundings. Names are logical (Hugging Face) names."""

    tensor_parallel_size: int
    rows: TokenRows
    kernels: KernelsConfig

    def norm(self, name: str) -> nn.Module:
        """RMSNorm over h: (x, pending or None) -> (norm of their sum, their sum)."""

    def qkv(self, prefix: str) -> nn.Module:
        """[., h] -> [t, (heads + 2 kv_heads) d / tp], rows ordered q, k, v."""

    def gate_up(self, prefix: str) -> nn.Module:
        """[., h] -> [t, 2 intermediate / tp], rows ordered gate, up."""

    def row(self, name: str, inputs: int) -> nn.Module:
        """[t, inputs / tp] -> [., h], summed over the tensor ranks."""

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


class Block(nn.Module):
    """Pre-norm attention and SwiGLU with residual connections.

    The stream travels as (x, pending): what a sublayer returns is added by the norm that follows it, in one pass.

    Args:
        recompute: "none", "selective" (attention core and SwiGLU) or "full" (applied by the stage).
    """

    def __init__(self, config: ModelConfig, layers: Layers, index: int, recompute: str) -> None:
        super().__init__()
        tp, prefix = layers.tensor_parallel_size, f"model.layers.{index}"
        self.heads = Heads(config.num_attention_heads // tp, config.num_key_value_heads // tp)
        self.kernels, self.recompute = layers.kernels, recompute
        self.input_layernorm = layers.norm(f"{prefix}.input_layernorm.weight")
        self.qkv = layers.qkv(f"{prefix}.self_attn")
        self.o_proj = layers.row(f"{prefix}.self_attn.o_proj.weight", config.hidden_size)
        self.post_attention_layernorm = layers.norm(f"{prefix}.post_attention_layernorm.weight")
        self.gate_up = layers.gate_up(f"{prefix}.mlp")
        self.down_proj = layers.row(f"{prefix}.mlp.down_proj.weight", config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        pending: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        documents: Documents | SharedPrefixes,
        noise: Noise | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(x, pending), each [., h], to the same one block later; cos, sin [t, d/2]; noise of adapters' dropout."""
        normed, x = self.input_layernorm(x, pending)
        qkv = _through(self.qkv, normed, noise)  # [t, (heads + 2 kv_heads) d / tp]
        pending = _through(self.o_proj, self._maybe_recompute(self._attend, qkv, cos, sin, documents), noise)
        normed, x = self.post_attention_layernorm(x, pending)
        gate_up = _through(self.gate_up, normed, noise)  # [t, 2 i / tp]
        return x, _through(self.down_proj, self._maybe_recompute(self._gate, gate_up), noise)

    def _maybe_recompute(self, function: Callable[..., Tensor], *inputs: object) -> Tensor:
        if self.recompute == "selective" and torch.is_grad_enabled():
            return _checkpoint(function, *inputs)
        return function(*inputs)

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, documents: Documents | SharedPrefixes) -> Tensor:
        if isinstance(documents, SharedPrefixes):
            return shared_prefix_attention(qkv, cos, sin, documents, self.heads)
        return rope_attention(
            qkv, cos, sin, documents, self.heads, backend=self.kernels.attention,
            deterministic=self.kernels.deterministic,
            in_place=self.recompute != "selective",  # recomputation would rotate twice
        )  # fmt: skip

    def _gate(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up, self.kernels.swiglu)  # [t, i/tp]


class LlamaChunk(nn.Module):
    """A consecutive range of blocks; the first chunk also embeds, the last also computes the loss.

    Args:
        first, last: block range [first, last) of the whole model.
    """

    def __init__(self, config: ModelConfig, layers: Layers, first: int, last: int, recompute: str) -> None:
        super().__init__()
        self.config, self.recompute, self.rows = config, recompute, layers.rows
        self.embed = layers.embedding() if first == 0 else None
        self.blocks = nn.ModuleList(Block(config, layers, index, recompute) for index in range(first, last))
        is_last = last == config.num_hidden_layers
        self.norm = layers.norm("model.norm.weight") if is_last else None
        self.head = layers.head() if is_last else None

    def forward(self, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """One micro-batch through this chunk.

        Args:
            x: hidden states [., h] from the previous chunk; ignored by the first chunk.

        Returns:
            hidden states [., h]; from the last chunk the summed loss [1] fp32, or logits [t, v/tp], or those of the rows
            that the micro-batch names as `scored` [n].
        """
        if self.embed is not None:
            x = self._with_rows(self.embed(batch.tokens), batch)
        assert x is not None
        cos, sin = self._rope(batch.positions)
        documents, noise = batch.documents, batch.noise if self.training else None
        pending: Tensor | None = None
        for block in self.blocks:
            if self.recompute == "full" and torch.is_grad_enabled():
                x = _checkpoint(_closed, block, x, cos, sin, documents, noise)
            else:
                x, pending = block(x, pending, cos, sin, documents, noise)
        if self.head is None or self.norm is None:
            return x if pending is None else x + pending
        normed, _ = self.norm(x, pending)
        if return_logits:
            return self.head(normed, None, batch.scored)
        return self.head(normed, batch.labels)

    def _with_rows(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Embeddings of molecules and proteins in the place of placeholder tokens, where the batch has any; [., h]."""
        if batch.inserts is None or batch.inserts.rows is None:
            return x
        rows, places = batch.inserts.rows, batch.inserts.places
        if self.rows.parts > 1:
            places = places - self.rows.first(len(x))
            here = (places >= 0) & (places < len(x))
            places, rows = places[here], rows[here]
        return x.index_copy(0, places, rows.to(x.dtype))

    def _rope(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        cos, sin = rope_table(
            config.max_position_embeddings, config.head_dim, config.rope_theta, positions.device
        )  # [max_position, d/2]
        return cos[positions], sin[positions]  # [t, d/2]


def _closed(
    block: Block, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | SharedPrefixes, noise: Noise | None
) -> Tensor:
    """A block that keeps one tensor for recomputation, not two."""
    x, pending = block(x, None, cos, sin, documents, noise)
    return x + pending


def _through(layer: nn.Module, x: Tensor, noise: Noise | None) -> Tensor:
    """A linear; only those with an adapter know of noise."""
    return cast(Tensor, layer(x, noise) if noise is not None and isinstance(layer, Adapted) else layer(x))


def chunk_ranges(layers: int, chunks: int) -> list[tuple[int, int]]:
    """Split the blocks over the chunks in order; earlier chunks take the remainder (the last one has the head)."""
    share, extra = divmod(layers, chunks)
    edges = [index * share + min(index, extra) for index in range(chunks + 1)]
    return list(zip(edges[:-1], edges[1:]))


def _checkpoint(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    # Dropout is a hash of places, so there is no random state to keep.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
