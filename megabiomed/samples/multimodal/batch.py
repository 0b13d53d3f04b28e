"""What one rank computes in one step of an alignment run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megabiomed.data.loader import StepBatch
from megabiomed.data.packing import MicroBatch
from megabiomed.encoders.esm2.alphabet import Protein
from megabiomed.encoders.gin.featurise import Molecule
from megabiomed.encoders.placement import Item

_NOWHERE = torch.zeros(0, dtype=torch.int64)
Features = Molecule | Protein


@dataclass(frozen=True)
class AlignMicroBatch(MicroBatch):
    """Packed windows with places for the rows of molecules and proteins.

    Attributes:
        insert_at: [n] int64 places in the flattened batch, in the order of the rows.
        rows: [n, h] embeddings that go there, set by the engine.
    """

    insert_at: Tensor = field(default_factory=lambda: _NOWHERE)
    rows: Tensor | None = None

    def to(self, device: torch.device) -> AlignMicroBatch:
        """The same batch on a device."""
        moved = super().to(device)
        assert isinstance(moved, AlignMicroBatch)
        object.__setattr__(moved, "insert_at", self.insert_at.to(device))
        return moved


@dataclass(frozen=True)
class AlignBatch(StepBatch):
    """A global batch: this replica's micro-batches, and the items of all replicas in the order of their rows.

    Attributes:
        items: of the whole global batch, ordered by replica, micro-batch and place.
        features: reads the features of one item; only the rank that encodes it calls this.
    """

    items: Sequence[Item]
    features: Callable[[Item], Features]


def empty_ids() -> NDArray[np.int64]:
    """Sample ids of a batch that is no part of a run (validation)."""
    return np.zeros((0, 3), np.int64)
