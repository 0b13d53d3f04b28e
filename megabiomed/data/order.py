"""The global sample order: which window is global sample k, as a pure function of (seed, k).

Nothing here depends on batch size, topology or the length of the run, so a resume at sample k needs no replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.mixture import Mixture
from megabiomed.data.permutation import Permutation


@dataclass(frozen=True)
class OrderSource:
    """One store of the mixture: its number of windows and its relative share of the samples."""

    num_windows: int
    weight: float = 1.0


class SampleOrder:
    """Samples of a mixture with exact shares, each source reshuffled every time it has been read through.

    `Mixture` gives the source of sample k and its index j within that source. It is window
    permutation(seed, source, epoch)(j mod n) of the n windows of the source, with epoch = j // n.

    Args:
        sources: at least one, each with at least one window.
        seed: names the order.
    """

    def __init__(self, sources: Sequence[OrderSource], seed: int) -> None:
        assert sources
        assert all(source.num_windows > 0 for source in sources)
        self.sources, self.seed = list(sources), seed
        self.mixture = Mixture([source.weight for source in sources])
        self._sizes = np.array([source.num_windows for source in sources], dtype=np.int64)

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one pass over the mixture: the total number of windows."""
        return int(self._sizes.sum())

    def sample_ids(self, first: int, count: int) -> NDArray[np.int64]:
        """Global samples [first, first + count).

        Returns:
            [count, 3] int64: source, epoch of that source, window.
        """
        source, index = self.mixture.deal(np.arange(first, first + count, dtype=np.int64))
        epoch, place = np.divmod(index, self._sizes[source])
        ids = np.stack((source, epoch, place), axis=1)
        # One permutation per (source, epoch) that occurs: a batch has few of them, and its samples are mapped together.
        for s, e in np.unique(ids[:, :2], axis=0).tolist():
            rows = (source == s) & (epoch == e)
            ids[rows, 2] = self._permutation(s, e)(place[rows])
        return ids

    def position(self, source: int, epoch: int, window: int) -> int:
        """The global sample number at which a window is read in that epoch of its source (inverse of `sample_ids`)."""
        place = int(self._permutation(source, epoch).inverse(window))
        return self.mixture.position(source, epoch * self.sources[source].num_windows + place)

    def describe(self) -> list[str]:
        """One line per source: its share, its size, and how often it is read through."""
        return [
            f"source {number}: {float(share):.4%} of the samples, {source.num_windows:,} windows, "
            f"read through every {float(source.num_windows / share):,.0f} samples"
            for number, (source, share) in enumerate(zip(self.sources, self.mixture.shares))
        ]

    def _permutation(self, source: int, epoch: int) -> Permutation:
        return Permutation(self.sources[source].num_windows, self.seed, source, epoch)
