"""Whether ranks that must hold the same weights do: a flipped bit in a device's memory tells nobody.

A checksum is a sum of integers that wraps, so one changed bit always changes it. What only one rank holds (ZeRO-3, FSDP2,
optimizer states of ZeRO-1 and 2) has no copy to be compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.config.grid import Span
from megabiomed.engine.build import TrainEngine
from megabiomed.engine.mesh import Mesh

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SPANS: tuple[Span, ...] = ("shards", "tp")

Difference = dict[str, Any]
"""`tensor`, and the world's ranks that differ from most others; all of its ranks where there is no majority."""


def checksums(tensors: Iterable[Tensor]) -> Tensor:
    """Sums of the bits of each tensor, read as whole numbers, modulo 2^64: [n] int64 on their device."""
    return torch.stack([_whole_numbers(tensor).sum(dtype=torch.int64) for tensor in tensors])  # [n]


def _whole_numbers(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()])


@torch.no_grad()
def differences(engine: TrainEngine) -> list[Difference]:
    """Tensors of this rank that are not alike on the ranks that share them. Collective along each of their spans."""
    held = list(engine.data_parallel.replicated())
    found = []
    for span in _SPANS:
        named = [(name, tensor) for name, tensor, along in held if along == span]
        if engine.mesh.in_model and engine.mesh.size(span) > 1 and named:
            found += _along(engine.mesh, span, [name for name, _ in named], checksums(tensor for _, tensor in named))
    return found


def _along(mesh: Mesh, span: Span, names: list[str], sums: Tensor) -> list[Difference]:
    group = mesh.group(span)
    of_all = [torch.empty_like(sums) for _ in range(group.size())]
    dist.all_gather(of_all, sums, group=group)
    table = torch.stack(of_all)  # [ranks, n]
    # Read once: a wait for the device for each tensor would take longer than the sums.
    unlike = (table != table[0]).any(dim=0).nonzero().reshape(-1).tolist()
    return [
        {"tensor": names[column], "ranks": [dist.get_global_rank(group, place) for place in _odd(table[:, column])]}
        for column in unlike
    ]


def _odd(column: Tensor) -> list[int]:
    """Places of the values that differ from the majority; all places where no value has one."""
    values = column.tolist()
    (most, votes), *_ = Counter(values).most_common()
    if 2 * votes <= len(values):
        return list(range(len(values)))
    return [place for place, value in enumerate(values) if value != most]
