"""The matrices of an architecture as megatron-core tensor-parallel layers, cut as its table says."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Placement
from megabiomed.config import KernelsConfig, LoraConfig
from megabiomed.kernels.fp8 import check_sizes
from megabiomed.kernels.linear_cross_entropy import Shard
from megabiomed.kernels.rms_norm import add_rms_norm, rms_norm
from megabiomed.model.architecture import Architecture
from megabiomed.model.head import VocabularyHead
from megabiomed.model.layers import Adapted
from megabiomed.model.linear import ColumnLinear, RowLinear
from megabiomed.model.lora import ColumnAdapter, RowAdapter
from megabiomed.model.placements import padded, pieces
from megabiomed.model.rows import TokenRows
from megabiomed.model.split_heads import SplitHeads
from megabiomed.model.tensors import LocalMatrix, LogicalTensor
from megabiomed.model.tying import CopiedEnd, OwnedEmbedding, OwnedEnd, TiedEnd
from megabiomed.processes.megatron_core import (
    ModelParallelConfig,
    VocabParallelEmbedding,
    copy_to_tensor_model_parallel_region,
    set_tensor_model_parallel_attributes,
)


class RMSNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) over the last dimension, its weight equal on all tensor ranks.

    Args:
        partial: each tensor rank sees only its tokens (sequence parallelism) or only its heads, so the weight's gradient is a
            partial sum. The identity `copy_to_tensor_model_parallel_region` sums it in autograd itself, before any
            data-parallel engine looks at it; one rule for every engine.
    """

    def __init__(self, size: int, eps: float, dtype: torch.dtype, partial: bool, backend: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, dtype=dtype))
        self.eps = eps
        self.partial = partial
        self.backend = backend

    def shared_weight(self) -> Tensor:
        """The weight as the computation uses it, [n]."""
        return copy_to_tensor_model_parallel_region(self.weight) if self.partial else self.weight


class StreamNorm(RMSNorm):
    """Of the residual stream, fused with the addition before it."""

    def forward(self, x: Tensor, pending: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(norm of the stream, stream) of [., h]; the stream is x plus what is pending to be added to it."""
        weight = self.shared_weight()
        if pending is None:
            return rms_norm(x, weight, self.eps, self.backend), x
        return add_rms_norm(pending, x, weight, self.eps, self.backend)


class HeadNorm(RMSNorm):
    """Of each head of the queries or keys."""

    def forward(self, x: Tensor) -> Tensor:
        """[t, heads/tp, d] to the same shape."""
        return rms_norm(x, self.shared_weight(), self.eps, self.backend)


class _OutputOnly(nn.Module):
    """megatron-core's linears return (output, bias that is not added); here the bias is added."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)[0]


class _Biased(nn.Module):
    """A row-parallel linear and its bias, which is added once, after the sum over the tensor ranks.

    Args:
        partial: each tensor rank adds it to its own tokens alone, and its gradient is a partial sum (see `RMSNorm`).
    """

    def __init__(self, linear: nn.Module, outputs: int, dtype: torch.dtype, partial: bool) -> None:
        super().__init__()
        self.linear, self.partial = linear, partial
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        bias = copy_to_tensor_model_parallel_region(self.bias) if self.partial else self.bias
        return self.linear(x)[0] + bias


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
        self, architecture: Architecture, tp_group: dist.ProcessGroup, *, sequence_parallel: bool, dtype: torch.dtype,
        kernels: KernelsConfig | None = None, z_loss: float = 0.0, lora: LoraConfig | None = None, fp8: bool = False,
        tied_end: TiedEnd | None = None,
    ) -> None:  # fmt: skip
        architecture.check_tying()
        self.kernels = kernels or KernelsConfig()
        self.z_loss = z_loss
        self.lora = lora
        self.architecture, self.config = architecture, architecture.config
        self.fp8 = fp8
        self.group = tp_group
        self.dtype = dtype
        self.sequence_parallel = sequence_parallel
        self.tensor_parallel_size, self.rank = tp_group.size(), tp_group.rank()
        self.rows = TokenRows.of(tp_group.size(), tp_group.rank(), sequence_parallel)
        self.placements: dict[nn.Parameter, Placement] = {}
        self.tied_end = tied_end
        self._embedded: nn.Parameter | None = None
        self.parallel = ModelParallelConfig(
            tensor_model_parallel_size=tp_group.size(),
            sequence_parallel=sequence_parallel,
            params_dtype=dtype,
            use_cpu_initialization=True,  # allocate on torch's default device instead of insisting on CUDA
            perform_initialization=False,
            # Ours is in model/linear.py, without megatron-core's compiled extension.
            gradient_accumulation_fusion=False,
        )

    def norm(self, name: str) -> nn.Module:
        """See `Layers`."""
        return self._norm(StreamNorm, name, self.sequence_parallel)

    def head_norm(self, name: str) -> nn.Module:
        """See `Layers`."""
        return self._norm(HeadNorm, name, self.tensor_parallel_size > 1)

    def _norm(self, kind: type[RMSNorm], name: str, partial: bool) -> nn.Module:
        tensor = self.architecture.tensors[name]
        module = kind(tensor.shape[0], self.config.rms_norm_eps, self.dtype, partial, self.kernels.norm)
        self._place(module.weight, [tensor])
        return module

    def linear(self, name: str) -> nn.Module:
        """See `Layers`. With adapters on any of the fused matrices, the linear and its adapter."""
        matrix = self.architecture.matrices[name]
        complete = self._column_linear(matrix) if matrix.cut == "rows" else self._row_linear(matrix)
        adapter = self._adapter(matrix)
        return complete if adapter is None else Adapted(complete, adapter)

    def whole_heads(self) -> nn.Module | None:
        """See `Layers`."""
        # Key/value heads that the ranks do not divide are cut inside.
        split = self.config.num_key_value_heads % self.tensor_parallel_size
        return SplitHeads(self.config, self.group) if split else None

    def _column_linear(self, matrix: LocalMatrix) -> nn.Module:
        linear = ColumnLinear(
            matrix.inputs, matrix.outputs, config=self.parallel, init_method=_no_init, bias=bool(matrix.biases),
            gather_output=False, tp_group=self.group,
        )  # fmt: skip
        self._multiply_in_fp8(linear, matrix)
        self._place(linear.weight, matrix.weights)
        if matrix.biases:
            self._place(linear.bias, matrix.biases)
        return _OutputOnly(linear)

    def _row_linear(self, matrix: LocalMatrix) -> nn.Module:
        linear = RowLinear(
            matrix.inputs, matrix.outputs, config=self.parallel, init_method=_no_init, bias=False,
            input_is_parallel=True, skip_bias_add=False, tp_group=self.group,
        )  # fmt: skip
        self._multiply_in_fp8(linear, matrix)
        self._place(linear.weight, matrix.weights)
        if not matrix.biases:
            return _OutputOnly(linear)
        biased = _Biased(linear, matrix.outputs, self.dtype, self.sequence_parallel)
        self._place(biased.bias, matrix.biases)
        return biased

    def _multiply_in_fp8(self, linear: ColumnLinear | RowLinear, matrix: LocalMatrix) -> None:
        if not self.fp8:
            return
        tp = self.tensor_parallel_size
        cut = (tp, 1) if matrix.cut == "rows" else (1, tp)
        check_sizes(matrix.weights[0].name, matrix.outputs // cut[0], matrix.inputs // cut[1])
        linear.fp8 = True

    def _adapter(self, matrix: LocalMatrix) -> nn.Module | None:
        lora, tp = self.lora, self.tensor_parallel_size
        chosen = (
            [] if lora is None else [w for w in matrix.weights if w.spec.adapter in self.architecture.targets(lora)]
        )
        if lora is None or not chosen:
            return None
        adapter: ColumnAdapter | RowAdapter
        if matrix.cut == "rows":
            parts = [(weight.shape[0] // tp, weight in chosen) for weight in matrix.weights]
            adapter = ColumnAdapter(
                parts, matrix.inputs, lora, self.group, sequence_parallel=self.sequence_parallel, dtype=self.dtype,
                name=chosen[0].name,
            )  # fmt: skip
        else:
            adapter = RowAdapter(
                matrix.inputs // tp, matrix.outputs, lora, self.group, sequence_parallel=self.sequence_parallel,
                dtype=self.dtype, name=chosen[0].name,
            )  # fmt: skip
        factors = [weight.factors(lora.rank) for weight in chosen]
        self._place(adapter.lora_A, [a for a, _ in factors])
        self._place(adapter.lora_B, [b for _, b in factors])
        return adapter

    def embedding(self) -> nn.Module:
        """Vocabulary-parallel embedding; rows beyond vocab_size are padding of the last shard."""
        rows = padded(self.config.vocab_size, self.tensor_parallel_size)
        embedding = (OwnedEmbedding if isinstance(self.tied_end, OwnedEnd) else VocabParallelEmbedding)(
            rows, self.config.hidden_size, init_method=_no_init, config=self.parallel,
            reduce_scatter_embeddings=self.sequence_parallel, tp_group=self.group,
        )  # fmt: skip
        if isinstance(self.tied_end, OwnedEnd):
            embedding.end = self.tied_end
        self._place(embedding.weight, [self.architecture.embedding])
        self._embedded = embedding.weight
        return _Embedding(embedding, self.sequence_parallel)

    def head(self) -> nn.Module:
        """Vocabulary-parallel output head with its loss; a tied one has the embedding's parameter, where that is here too."""
        share = padded(self.config.vocab_size, self.tensor_parallel_size) // self.tensor_parallel_size
        first = self.rank * share
        # The last ranks may hold nothing but padding.
        size = max(0, min(share, self.config.vocab_size - first))
        shard = Shard(first, size, self.group)
        return VocabularyHead(self._head_weight(share), shard, self.sequence_parallel, self.kernels, self.z_loss)

    def _head_weight(self, rows: int) -> nn.Parameter | CopiedEnd:
        if isinstance(self.tied_end, CopiedEnd):
            self.tied_end.hold(rows, self.config.hidden_size)
            return self.tied_end
        if self.architecture.tied and self._embedded is not None:
            return self._embedded
        weight = nn.Parameter(torch.empty(rows, self.config.hidden_size, dtype=self.dtype))
        self._place(weight, [self.architecture.head])
        return weight

    def _place(self, weight: nn.Parameter, tensors: Sequence[LogicalTensor]) -> None:
        # Under deepspeed.zero.Init the parameter is already partitioned; its full local shape is then ds_shape.
        shape = tuple(getattr(weight, "ds_shape", weight.shape))
        held = pieces(tensors, self.rank, self.tensor_parallel_size)
        replicated = all(tensor.replicated for tensor in tensors)
        self.placements[weight] = Placement(shape, held, replicated)
        # megatron-core marks a shard only while it initialises it, and initialisation is ours.
        if not replicated and not hasattr(weight, "tensor_model_parallel"):
            dim = 1 if tensors[0].cut == "columns" else 0
            set_tensor_model_parallel_attributes(weight, is_parallel=True, dim=dim, stride=1)


def _no_init(weight: Tensor) -> Tensor:
    return weight
