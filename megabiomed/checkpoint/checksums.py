"""Checksums of tensors' bits, by which a flipped bit is found wherever the same bits are looked at twice.

The sum of whole numbers modulo 2^64: one changed bit changes it always, in whatever order it is summed, on any device.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksums(tensors: Iterable[Tensor], device: torch.device | None = None) -> Tensor:
    """Sums of the bits of each tensor, read as whole numbers, modulo 2^64: [n] int64.

    Args:
        device: of the result; None: that of the first tensor. Tensors may lie on several ones.
    """
    sums = [whole_numbers(tensor).sum(dtype=torch.int64) for tensor in tensors]
    device = device or (sums[0].device if sums else torch.device("cpu"))
    # A copy between devices for each place, not for each tensor.
    places = list(dict.fromkeys(each.device for each in sums))
    if places == [device]:
        return torch.stack(sums)
    found = torch.zeros(len(sums), dtype=torch.int64, device=device)
    for place in places:
        numbers = [number for number, each in enumerate(sums) if each.device == place]
        found[torch.tensor(numbers, device=device)] = torch.stack([sums[number] for number in numbers]).to(device)
    return found


def whole_numbers(tensor: Tensor) -> Tensor:
    """The bits of a tensor as whole numbers, 8 bytes each where they fit, which is read fastest; the same for equal shapes."""
    flat = tensor.detach().contiguous().view(-1)
    size = flat.element_size()
    if flat.numel() * size % 8 or size == 8:
        return flat.view(_INTEGERS[size])
    if flat.data_ptr() % 8 or flat.storage_offset() * size % 8:
        flat = flat.clone()  # a view into a flat buffer may begin anywhere
    return flat.view(torch.int64)
