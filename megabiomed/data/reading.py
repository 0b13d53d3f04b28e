"""What a run has read so far: tokens by source, field of study and year of the papers, from the order and the stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from megabiomed.data.loader import TrainLoader

UNKNOWN = "unknown"
_MOST = 2000


@dataclass
class Read:
    """Shares of the tokens of the samples that were read; those of each kind sum to 1.

    Attributes:
        samples: read, those that a rewind passed over included.
        looked_at: samples that the shares are of: all, or some at equal distances.
        passes: over each store, by its path.
    """

    samples: int
    looked_at: int
    passes: dict[str, float]
    by_source: dict[str, float] = field(default_factory=dict)
    by_field: dict[str, float] = field(default_factory=dict)
    by_year: dict[str, float] = field(default_factory=dict)


def what_was_read(loader: TrainLoader, samples: int, most: int = _MOST) -> Read:
    """What the first samples of a run hold.

    Args:
        samples: how many were read.
        most: samples that are looked at.
    """
    numbers = (
        np.unique(np.linspace(0, samples - 1, min(samples, most)).astype(np.int64))
        if samples
        else np.empty(0, np.int64)
    )
    sources, years = Counter[str](), Counter[str]()
    fields: dict[str, float] = {}
    windows = Counter[int]()
    for number in numbers.tolist():
        source, _, window = loader.order.sample_ids(number, 1)[0].tolist()
        store = loader.stores[source]
        windows[source] += 1
        for document, low, high in loader.texts[source].pieces(window):
            origin, tokens = store.provenance(document), high - low
            sources[str(store.path)] += tokens
            years[str(origin.get("year") or UNKNOWN)] += tokens
            named = [str(each) for each in origin.get("fields") or (UNKNOWN,)]
            for each in named:  # a paper of two fields counts half for each
                fields[each] = fields.get(each, 0.0) + tokens / len(named)
    passes = {
        str(store.path): windows[number] / max(1, len(numbers)) * samples / len(loader.texts[number])
        for number, store in enumerate(loader.stores)
    }
    by_year = dict(sorted(_shares(years).items()))
    return Read(samples, len(numbers), passes, _shares(sources), _shares(fields), by_year)


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    """Shares, the largest first."""
    whole = sum(counts.values()) or 1
    return {name: counts[name] / whole for name in sorted(counts, key=lambda name: (-counts[name], name))}
