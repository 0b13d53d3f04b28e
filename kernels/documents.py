"""The document bounds of a packed micro-batch. Every attention backend honours them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Documents:
    """Document bounds of one packed micro-batch of t tokens; built once, used by every layer.

    Attributes:
        start: [t] int32, first token of each token's document part.
        end: [t] int32, one past its last token.
    """

    start: Tensor
    end: Tensor

    def moved(self, move: Callable[[Tensor], Tensor]) -> Documents:
        """The same bounds with every tensor moved; what was computed from them is computed again where they are now."""
        return Documents(move(self.start), move(self.end))

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """[documents + 1] int32 cumulative bounds (one host synchronisation on CUDA, once per micro-batch)."""
        index = torch.arange(self.start.numel(), device=self.start.device, dtype=self.start.dtype)
        first = torch.nonzero(self.start == index).flatten().to(torch.int32)
        return F.pad(first, (0, 1), value=self.start.numel())

    @cached_property
    def bounds(self) -> list[tuple[int, int]]:
        """(start, end) of every document part, on the host."""
        edges = self.cu_seqlens.tolist()
        return list(pairwise(edges))

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest document part."""
        return max(end - start for start, end in self.bounds)

    @cached_property
    def block_mask(self) -> Any:
        """FlexAttention's block mask of these bounds."""
        from torch.nn.attention.flex_attention import create_block_mask

        start, tokens = self.start, self.start.numel()

        def visible(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return (column <= row) & (column >= start[row])

        return create_block_mask(visible, None, None, tokens, tokens, device=str(start.device))


def documents_of_lengths(lengths: list[int], device: torch.device | str = "cpu") -> Documents:
    """The bounds of documents of these lengths, one after another."""
    edges = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    repeats = torch.tensor(lengths)
    bounds = (edges[:-1].repeat_interleave(repeats), edges[1:].repeat_interleave(repeats))
    return Documents(*(edge.to(device) for edge in bounds))
