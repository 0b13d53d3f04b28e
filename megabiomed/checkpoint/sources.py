"""Chains of sources: the newest checkpoint that holds a logical tensor answers for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from megabiomed.checkpoint.logical import Box, TensorSource, fill
from megabiomed.checkpoint.reader import Checkpoint


class ChainSource:
    """The first checkpoint that holds a tensor answers for it, else the base; implements `TensorSource`."""

    def __init__(self, checkpoints: Sequence[Checkpoint], base: TensorSource, base_names: frozenset[str]) -> None:
        self.checkpoints = list(checkpoints)
        self.base = base
        self._names = base_names

    def holds(self, name: str) -> bool:
        """Whether anybody has the tensor."""
        return name in self._names or any(name in checkpoint.shapes for checkpoint in self.checkpoints)

    def _holder(self, name: str) -> TensorSource:
        # A checkpoint holds all of a tensor or nothing of it (`check_tiling`), so one source is enough.
        return next((checkpoint for checkpoint in self.checkpoints if name in checkpoint.shapes), self.base)

    def read(self, box: Box, kind: str = "param") -> torch.Tensor:
        """Values of one box as fp32."""
        values = torch.empty(box.shape)
        self.read_into(box, values, kind)
        return values

    def read_into(self, box: Box, out: torch.Tensor, kind: str = "param") -> None:
        """Fill `out` with the values of one box."""
        fill(self._holder(box.name), box, out, kind)

    def before(self, checkpoint: Checkpoint) -> ChainSource:
        """The same chain with a newer checkpoint in front."""
        return ChainSource([checkpoint, *self.checkpoints], self.base, self._names)
