"""The global sample order: which window is global sample k, as a pure function of (seed, k).

Nothing here depends on batch size, topology or the length of the run, so a resume at sample k needs no replay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.permutation import Permutation
from megabiomed.errors import ConfigError

_LARGEST_CYCLE = 1 << 22


@dataclass(frozen=True)
class OrderSource:
    """One store of the mixture: its number of windows and its relative share of the samples."""

    num_windows: int
    weight: float = 1.0


class SampleOrder:
    """Samples of a mixture with exact proportions, each source reshuffled every time it has been read through.

    The choice of the source repeats with a cycle of P samples, P the common denominator of the shares: in every cycle each
    source occurs exactly share * P times, spread evenly (in any prefix within 1 of its share times the prefix for two
    sources, within the number of sources in general). The j-th sample of source s is window
    permutation(seed, s, j // n_s)(j % n_s) of it.

    Args:
        sources: at least one.
        seed: names the order.
    """

    def __init__(self, sources: Sequence[OrderSource], seed: int) -> None:
        assert sources
        self.sources, self.seed = list(sources), seed
        self._cycle, self._before = _cycle([source.weight for source in sources])
        self._per_cycle = np.bincount(self._cycle, minlength=len(sources)).astype(np.int64)
        self._permutations: dict[tuple[int, int], Permutation] = {}

    @property
    def samples_per_epoch(self) -> int:
        """Samples in one pass over the mixture: the total number of windows."""
        return sum(source.num_windows for source in self.sources)

    def sample_ids(self, first: int, count: int) -> NDArray[np.int64]:
        """Global samples [first, first + count).

        Returns:
            [count, 3] int64: source, epoch of that source, window.
        """
        k = np.arange(first, first + count, dtype=np.int64)
        turn, place = np.divmod(k, len(self._cycle))
        source = self._cycle[place]
        j = turn * self._per_cycle[source] + self._before[place]
        sizes = np.array([entry.num_windows for entry in self.sources], dtype=np.int64)[source]
        epoch, index = np.divmod(j, sizes)
        ids = np.stack((source, epoch, index), axis=1)
        for s, e in np.unique(ids[:, :2], axis=0):
            rows = (ids[:, 0] == s) & (ids[:, 1] == e)
            ids[rows, 2] = self._permutation(int(s), int(e))(ids[rows, 2])
        return ids

    def position(self, source: int, epoch: int, window: int) -> int:
        """The global sample number at which a window is read in that epoch of its source (inverse of `sample_ids`)."""
        n = self.sources[source].num_windows
        j = epoch * n + int(self._permutation(source, epoch).inverse(window))
        turn, rest = divmod(j, int(self._per_cycle[source]))
        places = np.flatnonzero(self._cycle == source)
        return turn * len(self._cycle) + int(places[rest])

    def _permutation(self, source: int, epoch: int) -> Permutation:
        key = (source, epoch)
        if key not in self._permutations:
            if len(self._permutations) > 4 * len(self.sources):
                self._permutations.clear()
            self._permutations[key] = Permutation(self.sources[source].num_windows, self.seed, source, epoch)
        return self._permutations[key]


def _cycle(weights: Sequence[float]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The repeating choice of sources, and for each place how often its source occurred before in the cycle."""
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact, Fraction(0))
    shares = [weight / total for weight in exact]
    period = lcm(*(share.denominator for share in shares))
    if period > _LARGEST_CYCLE:
        raise ConfigError(
            "the weights of data.train have no common period that fits",
            got=f"{list(weights)} with period {period}",
            expected=f"a period of at most {_LARGEST_CYCLE}",
            do="round the weights, for example to 0.99 and 0.01",
        )
    counts = [int(share * period) for share in shares]
    # Source s occurs for the i-th time at the ideal place (i + 1/2) / count; sorting those merges all sources evenly.
    places = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    owner = np.repeat(np.arange(len(counts)), counts)
    cycle = owner[np.lexsort((owner, places))].astype(np.int64)
    before = np.zeros(period, dtype=np.int64)
    for source in range(len(counts)):
        here = cycle == source
        before[here] = np.arange(int(here.sum()))
    return cycle, before
