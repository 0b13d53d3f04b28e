"""Fewer key/value heads than tensor ranks: each is cut between the ranks whose query heads share it.

The ranks project their parts of the heads and gather them before the attention, so weights, optimizer, adapters and
checkpoints know of rows alone, and no rank multiplies what another one does. megatron-core's `SelfAttention` gathers q, k and
v for the same reason.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.config.models import ModelConfig
from megabiomed.processes.megatron_core import gather_from_sequence_parallel_region


class SplitHeads(nn.Module):
    """Puts the key/value head of this rank together from the parts that its sharers hold.

    Over tp ranks a key/value head lies on s = tp / kv_heads neighbouring ranks. The gradient of a head is summed over its
    sharers where it is spread again.

    Args:
        group: of the tp tensor ranks.
    """

    def __init__(self, config: ModelConfig, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group, self.sharers = group, group.size() // config.num_key_value_heads
        self.part = config.head_size // self.sharers

    def forward(self, qkv: Tensor) -> Tensor:
        """[t, heads d / tp + 2 d / s], as the projection makes it, to [t, heads d / tp + 2 d]."""
        query, parts = qkv.split([qkv.shape[1] - 2 * self.part, 2 * self.part], dim=1)
        # The other ranks' gradients of the gathered rows are partial: they are summed on the way back.
        rows = gather_from_sequence_parallel_region(parts, tensor_parallel_output_grad=True, group=self.group)
        first = self.group.rank() // self.sharers * self.sharers
        mine = rows.unflatten(0, (self.group.size(), -1))[first : first + self.sharers]  # [s, t, 2 d / s]
        keys, values = mine.split(self.part, dim=2)  # [s, t, d / s]
        return torch.cat((query, *keys, *values), dim=1)  # [t, heads d / tp + 2 d]
