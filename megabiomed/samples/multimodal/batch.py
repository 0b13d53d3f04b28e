"""What one rank computes in one step of an alignment run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.loader import StepBatch
from megabiomed.encoders.modality import Features
from megabiomed.encoders.schedule import EncoderItem


@dataclass(frozen=True)
class AlignBatch(StepBatch):
    """A global batch: this replica's micro-batches, and the items of all replicas in the order of their rows.

    Attributes:
        micro_batches: each with `inserts`, whose rows the engine sets.
        items: of the whole global batch, ordered by replica, micro-batch and place.
        features: reads the features of one item; only the rank that encodes it calls this.
    """

    items: Sequence[EncoderItem]
    features: Callable[[EncoderItem], Features]


def empty_ids() -> NDArray[np.int64]:
    """Sample ids of a batch that is no part of a run (validation)."""
    return np.zeros((0, 3), np.int64)
