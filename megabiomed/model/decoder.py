"""Decoder blocks and pipeline stages of every architecture, written without knowing how the matrices are spread.

Shapes: t tokens of one micro-batch (packed windows, flattened), h hidden_size, d head size, v vocab_size. A factory
(`Layers`, see layers.py) makes the matrices; with tensor parallelism over tp ranks and sequence parallelism the
residual stream between them is [t/tp, h], without it [t, h].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from megabiomed.data.packing import MicroBatch
from megabiomed.kernels.document_attention import Heads, rope_attention
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.dropout import Noise
from megabiomed.kernels.shared_prefix import SharedPrefixes, shared_prefix_attention
from megabiomed.kernels.swiglu import swiglu
from megabiomed.model.architecture import Architecture
from megabiomed.model.layers import Layers, through


class Attention(nn.Module):
    """Document-masked causal attention with RoPE.

    Biases of q, k and v and norms of the heads of q and k are there where the table of the architecture has them.
    """

    def __init__(self, architecture: Architecture, layers: Layers, prefix: str, recompute: str) -> None:
        super().__init__()
        config, tp = architecture.config, layers.tensor_parallel_size
        # Where there are fewer key/value heads than ranks, each rank computes with one whole head (`SplitHeads`).
        self.heads = Heads(config.num_attention_heads // tp, max(1, config.num_key_value_heads // tp))
        self.kernels, self.recompute = layers.kernels, recompute
        self.qkv, self.whole_heads = layers.linear(f"{prefix}.qkv"), layers.whole_heads()
        norms = [f"{prefix}.{part}_norm.weight" for part in "qk"]
        self.head_norms = nn.ModuleList(layers.head_norm(name) for name in norms if name in architecture.tensors)
        self.o_proj = layers.linear(f"{prefix}.o_proj")

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | SharedPrefixes, noise: Noise | None
    ) -> Tensor:
        """[., h] to [., h]; see `Block.forward`."""
        qkv = through(self.qkv, x, noise)  # [t, (heads + 2 kv_heads) d / tp]
        qkv = self._normed(qkv if self.whole_heads is None else self.whole_heads(qkv))
        mixed = _maybe_recompute(self.recompute, self._attend, qkv, cos, sin, documents)  # [t, heads d / tp]
        return through(self.o_proj, mixed, noise)

    def _normed(self, qkv: Tensor) -> Tensor:
        if not self.head_norms:
            return qkv
        query, key_value = self.heads
        heads = qkv.unflatten(1, (query + 2 * key_value, -1))  # [t, (heads + 2 kv_heads) / tp, d]
        q, k, v = heads.split([query, key_value, key_value], dim=1)
        q_norm, k_norm = self.head_norms
        return torch.cat((q_norm(q), k_norm(k), v), dim=1).flatten(1)  # [t, (heads + 2 kv_heads) d / tp]

    def _attend(self, qkv: Tensor, cos: Tensor, sin: Tensor, documents: Documents | SharedPrefixes) -> Tensor:
        if isinstance(documents, SharedPrefixes):
            return shared_prefix_attention(qkv, cos, sin, documents, self.heads)
        return rope_attention(
            qkv, cos, sin, documents, self.heads, backend=self.kernels.attention,
            deterministic=self.kernels.deterministic,
            in_place=self.recompute != "selective",  # recomputation would rotate twice
        )  # fmt: skip


class GatedMlp(nn.Module):
    """SwiGLU (Shazeer 2020)."""

    def __init__(self, layers: Layers, prefix: str, recompute: str) -> None:
        super().__init__()
        self.kernels, self.recompute = layers.kernels, recompute
        self.gate_up = layers.linear(f"{prefix}.gate_up")
        self.down_proj = layers.linear(f"{prefix}.down_proj")

    def forward(self, x: Tensor, noise: Noise | None) -> Tensor:
        """[., h] to [., h]; see `Block.forward`."""
        gate_up = through(self.gate_up, x, noise)  # [t, 2 i / tp]
        return through(self.down_proj, _maybe_recompute(self.recompute, self._gate, gate_up), noise)

    def _gate(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up, self.kernels.swiglu)  # [t, i/tp]


class Block(nn.Module):
    """Pre-norm attention and gated MLP with residual connections.

    The stream travels as (x, pending): what a sublayer returns is added by the norm that follows it, in one pass.

    Args:
        recompute: "none", "selective" (attention core and SwiGLU) or "full" (applied by the stage).
    """

    def __init__(self, architecture: Architecture, layers: Layers, index: int, recompute: str) -> None:
        super().__init__()
        prefix = f"model.layers.{index}"
        self.input_layernorm = layers.norm(f"{prefix}.input_layernorm.weight")
        self.attention = Attention(architecture, layers, f"{prefix}.self_attn", recompute)
        self.post_attention_layernorm = layers.norm(f"{prefix}.post_attention_layernorm.weight")
        self.mlp = GatedMlp(layers, f"{prefix}.mlp", recompute)

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
        pending = self.attention(normed, cos, sin, documents, noise)
        normed, x = self.post_attention_layernorm(x, pending)
        return x, self.mlp(normed, noise)


class Chunk(nn.Module):
    """A consecutive range of blocks; the first chunk also embeds, the last also computes the loss.

    Args:
        first, last: block range [first, last) of the whole model.
    """

    def __init__(self, architecture: Architecture, layers: Layers, first: int, last: int, recompute: str) -> None:
        super().__init__()
        self.rope = architecture.rope()
        self.recompute = recompute
        self.rows = layers.rows
        self.embed = layers.embedding() if first == 0 else None
        self.blocks = nn.ModuleList(architecture.block(layers, index, recompute) for index in range(first, last))
        is_last = last == architecture.config.num_hidden_layers
        self.norm = layers.norm(architecture.final_norm.name) if is_last else None
        self.head = layers.head() if is_last else None

    def forward(self, x: Tensor | None, batch: MicroBatch, return_logits: bool = False) -> Tensor:
        """One micro-batch through this chunk.

        Args:
            x: hidden states [., h] from the previous chunk; ignored by the first chunk.

        Returns:
            hidden states [., h]; from the last chunk the summed loss [1] fp32 times the batch's scale, or logits [t, v/tp], or
            those of the rows that the micro-batch names as `scored` [n].
        """
        if self.embed is not None:
            x = self._with_rows(self.embed(batch.tokens), batch)
        assert x is not None
        cos, sin = self.rope.at(batch.positions)  # [t, d/2]
        documents, noise = batch.documents, batch.noise if self.training else None
        pending: Tensor | None = None
        for block in self.blocks:
            if self.recompute == "full" and torch.is_grad_enabled():
                x = _checkpoint(_closed, block, x, cos, sin, documents, noise)
            else:
                x, pending = block(x, pending, cos, sin, documents, noise)
        if self.head is None or self.norm is None:
            # One tensor travels between stages, so what is pending is added here.
            return x if pending is None else x + pending
        normed, _ = self.norm(x, pending)
        if return_logits:
            return self.head(normed, None, batch.scored)
        return self.head(normed, batch.labels, scale=batch.loss_scale)

    def _with_rows(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Embeddings of molecules and proteins in the place of placeholder tokens, where the batch has any; [., h]."""
        if batch.inserts is None or batch.inserts.rows is None:
            return x
        rows, places = batch.inserts.rows, batch.inserts.places
        # This rank has some of the tokens under sequence parallelism, and fills those alone.
        if self.rows.parts > 1:
            places = places - self.rows.first(len(x))
            here = (places >= 0) & (places < len(x))
            places, rows = places[here], rows[here]
        return x.index_copy(0, places, rows.to(x.dtype))


def _closed(
    block: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, documents: Documents | SharedPrefixes, noise: Noise | None
) -> Tensor:
    """A block that keeps one tensor for recomputation, not two."""
    x, pending = block(x, None, cos, sin, documents, noise)
    return x + pending


def _maybe_recompute(recompute: str, function: Callable[..., Tensor], *inputs: object) -> Tensor:
    """A function whose intermediate values are computed again in the backward pass, where `selective` asks for that."""
    if recompute == "selective" and torch.is_grad_enabled():
        return _checkpoint(function, *inputs)
    return function(*inputs)


def _checkpoint(function: Callable[..., Tensor], *inputs: object) -> Tensor:
    # Dropout is a hash of places, so there is no random state to keep.
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
