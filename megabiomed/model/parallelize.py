"""Llama2's matrices as megatron-core tensor-parallel layers, and where their rows lie in the logical tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
)
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Box, Piece, Placement
from megabiomed.config import KernelsConfig, LoraConfig, ModelConfig
from megabiomed.kernels.linear_cross_entropy import Shard
from megabiomed.kernels.rms_norm import add_rms_norm, rms_norm
from megabiomed.model.adapters import factor_names, short
from megabiomed.model.decoder import Adapted
from megabiomed.model.head import VocabularyHead
from megabiomed.model.lora import ColumnAdapter, RowAdapter
from megabiomed.model.rows import TokenRows


class RMSNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) over the last dimension, exact under sequence parallelism.

    Under sequence parallelism each tensor rank sees only its tokens, so the weight's gradient is a partial sum. The
    identity `copy_to_tensor_model_parallel_region` sums it in autograd itself, before any data-parallel engine looks at
    it; one rule for every engine.
    """

    def __init__(self, size: int, eps: float, dtype: torch.dtype, sequence_parallel: bool, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype))
        self.eps, self.sequence_parallel, self.backend = eps, sequence_parallel, backend

    def forward(self, x: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(norm of the stream, stream) of [., h]; the stream is x plus what is pending to be added to it."""
        weight = copy_to_tensor_model_parallel_region(self.weight) if self.sequence_parallel else self.weight
        if pending is None:
            return rms_norm(x, weight, self.eps, self.backend), x
        return add_rms_norm(pending, x, weight, self.eps, self.backend)


class _OutputOnly(nn.Module):
    """megatron-core's linears return (output, bias); the blocks have no biases."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[0]


class _Embedding(nn.Module):
    """Vocabulary-parallel embedding; megatron-core scatters over its first of two token dimensions."""

    def __init__(self, embedding: VocabParallelEmbedding, sequence_parallel: bool) -> None:
        super().__init__()
        self.embedding, self.sequence_parallel = embedding, sequence_parallel

    def forward(self, tokens: Tensor) -> Tensor:
        if self.sequence_parallel:
            return self.embedding(tokens.unsqueeze(0)).squeeze(1)  # [t/tp, h]
        return self.embedding(tokens)  # [t, h]


class TensorParallelLayers:
    """Factory of the parallel layers of one stage; `placements` collects where each parameter's rows belong.

    Weights are allocated empty (on the default device, which may be meta) in `dtype` and filled from a `TensorSource`.
    """

    def __init__(
        self, config: ModelConfig, tp_group: dist.ProcessGroup, *, sequence_parallel: bool, dtype: torch.dtype,
        kernels: KernelsConfig | None = None, z_loss: float = 0.0, lora: LoraConfig | None = None,
    ) -> None:  # fmt: skip
        self.kernels, self.z_loss, self.lora = kernels or KernelsConfig(), z_loss, lora
        self.config, self.group, self.dtype, self.sequence_parallel = config, tp_group, dtype, sequence_parallel
        self.tensor_parallel_size, self.rank = tp_group.size(), tp_group.rank()
        self.rows = TokenRows.of(tp_group.size(), tp_group.rank(), sequence_parallel)
        self.placements: dict[nn.Parameter, Placement] = {}
        self.parallel = ModelParallelConfig(
            tensor_model_parallel_size=tp_group.size(),
            sequence_parallel=sequence_parallel,
            params_dtype=dtype,
            use_cpu_initialization=True,  # allocate on torch's default device instead of insisting on CUDA
            perform_initialization=False,
            gradient_accumulation_fusion=False,
        )

    def norm(self, name: str) -> nn.Module:
        """RMSNorm, replicated."""
        h = self.config.hidden_size
        module = RMSNorm(h, self.config.rms_norm_eps, self.dtype, self.sequence_parallel, self.kernels.norm)
        self._replicate(module.weight, (Piece(0, Box.whole(name, (h,))),))
        return module

    def qkv(self, prefix: str) -> nn.Module:
        """Column-parallel fused q, k, v: each rank's rows are [its q heads; its k heads; its v heads]."""
        c = self.config
        rows = {"q": c.num_attention_heads * c.head_dim, "k": c.num_key_value_heads * c.head_dim}
        rows["v"] = rows["k"]
        return self._columns({f"{prefix}.{part}_proj.weight": size for part, size in rows.items()})

    def gate_up(self, prefix: str) -> nn.Module:
        """Column-parallel fused gate and up: each rank's rows are [its gate rows; its up rows]."""
        size = self.config.intermediate_size
        return self._columns({f"{prefix}.gate_proj.weight": size, f"{prefix}.up_proj.weight": size})

    def _columns(self, parts: dict[str, int]) -> nn.Module:
        h, tp = self.config.hidden_size, self.tensor_parallel_size
        linear = self._column_linear(sum(parts.values()))
        pieces, row = [], 0
        for name, size in parts.items():
            share = size // tp
            pieces.append(Piece(row, Box(name, (size, h), (self.rank * share, 0), (share, h))))
            row += share
        self._place(linear.weight, tuple(pieces), dim=0)
        return self._with_column_adapter(_OutputOnly(linear), parts)

    def row(self, name: str, inputs: int) -> nn.Module:
        """Row-parallel linear: this rank's columns of the logical matrix."""
        h, share = self.config.hidden_size, inputs // self.tensor_parallel_size
        linear = RowParallelLinear(
            inputs, h, config=self.parallel, init_method=_no_init, bias=False, input_is_parallel=True,
            skip_bias_add=False, tp_group=self.group,
        )  # fmt: skip
        self._place(linear.weight, (Piece(0, Box(name, (h, inputs), (0, self.rank * share), (h, share))),), dim=1)
        return self._with_row_adapter(_OutputOnly(linear), name, inputs)

    def _with_column_adapter(self, linear: nn.Module, parts: dict[str, int]) -> nn.Module:
        lora, h, tp = self.lora, self.config.hidden_size, self.tensor_parallel_size
        chosen = [name for name in parts if lora is not None and short(name) in lora.targets]
        if lora is None or not chosen:
            return linear
        adapter = ColumnAdapter(
            [(size // tp, name in chosen) for name, size in parts.items()], h, lora, self.group,
            sequence_parallel=self.sequence_parallel, dtype=self.dtype, name=chosen[0],
        )  # fmt: skip
        replicated, sharded, row = [], [], 0
        for number, name in enumerate(chosen):
            a, b = factor_names(name)
            share = parts[name] // tp
            replicated.append(Piece(number * lora.rank, Box.whole(a, (lora.rank, h))))
            sharded.append(Piece(row, Box(b, (parts[name], lora.rank), (self.rank * share, 0), (share, lora.rank))))
            row += share
        self._replicate(adapter.lora_A, tuple(replicated))
        self._place(adapter.lora_B, tuple(sharded), dim=0)
        return Adapted(linear, adapter)

    def _with_row_adapter(self, linear: nn.Module, name: str, inputs: int) -> nn.Module:
        lora, h, share = self.lora, self.config.hidden_size, inputs // self.tensor_parallel_size
        if lora is None or short(name) not in lora.targets:
            return linear
        adapter = RowAdapter(
            share, h, lora, self.group, sequence_parallel=self.sequence_parallel, dtype=self.dtype, name=name
        )
        a, b = factor_names(name)
        columns = Box(a, (lora.rank, inputs), (0, self.rank * share), (lora.rank, share))
        self._place(adapter.lora_A, (Piece(0, columns),), dim=1)
        self._replicate(adapter.lora_B, (Piece(0, Box.whole(b, (h, lora.rank))),))
        return Adapted(linear, adapter)

    def embedding(self) -> nn.Module:
        """Vocabulary-parallel embedding; rows beyond vocab_size are padding of the last shard."""
        embedding = VocabParallelEmbedding(
            self._padded_vocab(), self.config.hidden_size, init_method=_no_init, config=self.parallel,
            reduce_scatter_embeddings=self.sequence_parallel, tp_group=self.group,
        )  # fmt: skip
        self._place(embedding.weight, self._vocab_pieces("model.embed_tokens.weight"), dim=0)
        return _Embedding(embedding, self.sequence_parallel)

    def head(self) -> nn.Module:
        """Vocabulary-parallel output head with its loss."""
        share = self._padded_vocab() // self.tensor_parallel_size
        first = self.rank * share
        size = max(0, min(share, self.config.vocab_size - first))
        weight = nn.Parameter(torch.empty(share, self.config.hidden_size, dtype=self.dtype))
        shard = Shard(first, size, self.group)
        head = VocabularyHead(weight, shard, self.sequence_parallel, self.kernels, self.z_loss)
        self._place(head.weight, self._vocab_pieces("lm_head.weight"), dim=0)
        return head

    def _column_linear(self, outputs: int) -> ColumnParallelLinear:
        return ColumnParallelLinear(
            self.config.hidden_size, outputs, config=self.parallel, init_method=_no_init, bias=False,
            gather_output=False, tp_group=self.group,
        )  # fmt: skip

    def _padded_vocab(self) -> int:
        tp = self.tensor_parallel_size
        return -(-self.config.vocab_size // tp) * tp

    def _vocab_pieces(self, name: str) -> tuple[Piece, ...]:
        v, h = self.config.vocab_size, self.config.hidden_size
        share = self._padded_vocab() // self.tensor_parallel_size
        first = self.rank * share
        held = min(share, v - first)
        return (Piece(0, Box(name, (v, h), (first, 0), (held, h))),) if held > 0 else ()

    def _replicate(self, weight: nn.Parameter, pieces: tuple[Piece, ...]) -> None:
        self.placements[weight] = Placement(tuple(getattr(weight, "ds_shape", weight.shape)), pieces, replicated=True)

    def _place(self, weight: nn.Parameter, pieces: tuple[Piece, ...], dim: int) -> None:
        # Under deepspeed.zero.Init the parameter is already partitioned; its full local shape is then ds_shape.
        shape = tuple(getattr(weight, "ds_shape", weight.shape))
        self.placements[weight] = Placement(shape, pieces)
        # megatron-core marks a shard only while it initialises it, and initialisation is ours.
        if not hasattr(weight, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)


def _no_init(weight: Tensor) -> Tensor:
    return weight
