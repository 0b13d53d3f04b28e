"""Low-rank adapters (LoRA, Hu et al. 2021) beside the tensor-parallel matrices: W x + scale * B A x, with W frozen.

What crosses ranks is as narrow as the adapter, rank r (n r where n matrices are fused):

  column-parallel (q, k, v, gate, up)          row-parallel (o, down)
  A [r, h] on every rank                       A [r, inputs/tp]  columns of this rank
  B [outputs/tp, r]  rows of this rank         B [h, r] on every rank
  A x: nothing to sum forward,                 A x is summed over the tensor ranks forward,
       its gradient is summed backward              nothing to sum backward

Under sequence parallelism the sums become all-gathers and reduce-scatters of [t, r]; the factor that every rank holds then
sees only this rank's tokens and its gradient is summed in autograd, by the rule of `RMSNorm`.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.config import LoraConfig
from megabiomed.kernels.dropout import Noise, drop
from megabiomed.model.rows import TokenRows
from megabiomed.processes.megatron_core import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)


class ColumnAdapter(nn.Module):
    """Adapters of the matrices that a column-parallel linear fuses.

    Args:
        parts: local outputs of each fused matrix, in order, and whether it has an adapter.
        inputs: h.
        name: names the dropout of this layer, equal on all topologies.
    """

    def __init__(
        self, parts: list[tuple[int, bool]], inputs: int, lora: LoraConfig, group: dist.ProcessGroup,
        *, sequence_parallel: bool, dtype: torch.dtype, name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.lora = lora
        self.group = group
        self.sequence_parallel = sequence_parallel
        self.name = name
        self.parts = parts
        adapted = [size for size, chosen in parts if chosen]
        self.lora_A = nn.Parameter(torch.empty(len(adapted) * lora.rank, inputs, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty(sum(adapted), lora.rank, dtype=dtype))

    def forward(self, x: Tensor, y: Tensor, noise: Noise | None) -> Tensor:
        """y [t, outputs/tp] of the frozen matrices plus the adapters' part of x [., h]."""
        a = copy_to_tensor_model_parallel_region(self.lora_A, self.group) if self.sequence_parallel else self.lora_A
        if noise is not None:
            # The place in the micro-batch names the noise, not the place on this rank.
            rows = TokenRows.of(self.group.size(), self.group.rank(), self.sequence_parallel)
            x = drop(x, noise, self.lora.dropout, self.name, first_row=rows.first(x.shape[0]))
        low = nn.functional.linear(x, a)  # [., n r]
        if self.sequence_parallel:
            low = gather_from_sequence_parallel_region(low, tensor_parallel_output_grad=True, group=self.group)
        else:
            low = copy_to_tensor_model_parallel_region(low, self.group)
        lows = iter(low.split(self.lora.rank, dim=1))  # n x [t, r]
        bs = iter(self.lora_B.split([size for size, chosen in self.parts if chosen]))
        outputs = y.split([size for size, _ in self.parts], dim=1)
        sums = [
            torch.addmm(part, next(lows), next(bs).t(), alpha=self.lora.scale) if chosen else part
            for part, (_, chosen) in zip(outputs, self.parts)
        ]
        return torch.cat(sums, dim=1)  # [t, outputs/tp]


class RowAdapter(nn.Module):
    """Adapter of a row-parallel linear.

    Args:
        inputs: local inputs.
        outputs: h.
    """

    def __init__(
        self, inputs: int, outputs: int, lora: LoraConfig, group: dist.ProcessGroup,
        *, sequence_parallel: bool, dtype: torch.dtype, name: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self.lora = lora
        self.group = group
        self.sequence_parallel = sequence_parallel
        self.name = name
        self.lora_A = nn.Parameter(torch.empty(lora.rank, inputs, dtype=dtype))
        self.lora_B = nn.Parameter(torch.empty(outputs, lora.rank, dtype=dtype))

    def forward(self, x: Tensor, y: Tensor, noise: Noise | None) -> Tensor:
        """y [., h] of the frozen matrix plus the adapter's part of x [t, inputs/tp]."""
        if noise is not None:
            # Columns count over all ranks, so that every topology drops the same elements.
            first = self.group.rank() * x.shape[1]
            x = drop(x, noise, self.lora.dropout, self.name, first_column=first)
        low = nn.functional.linear(x, self.lora_A)  # [t, r], this rank's part of the sum
        if self.sequence_parallel:
            low = reduce_scatter_to_sequence_parallel_region(low, self.group)  # [t/tp, r]
            b = copy_to_tensor_model_parallel_region(self.lora_B, self.group)
        else:
            low, b = reduce_from_tensor_model_parallel_region(low, self.group), self.lora_B
        return torch.addmm(y, low, b.t(), alpha=self.lora.scale)  # [., h]


def freeze_base(stage: nn.Module) -> None:
    """Leave only adapters trainable."""
    for name, parameter in stage.named_parameters():
        parameter.requires_grad_(name.endswith((".lora_A", ".lora_B")))
