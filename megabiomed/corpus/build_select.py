"""Which of the cleaned papers stay, and in which split: decided from their keys, for the corpus as a whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.dedup import SHARED_IDS, repeated
from megabiomed.corpus.near import near_repeated
from megabiomed.corpus.options import BuildOptions
from megabiomed.corpus.shards import SPLITS

DROPPED = -1


class Selection:
    """Decides for every document of every part: train (0), validation (1), or dropped.

    Args:
        parts: cleaned parts in the order of the corpus.
        counts: gains `papers: ...`, and `train` and `validation`.
    """

    def __init__(self, options: BuildOptions, parts: Sequence[Path], counts: Counter[str]) -> None:
        self._options, self._parts = options, parts
        self._counts = counts

    def run(self) -> list[Path]:
        """Write one file per part, and return them in order."""
        # Mapped, not read: the keys of a full corpus are gigabytes, and `repeated` looks at a sixteenth at a time.
        keys = [np.load(part.with_name(f"{part.name}.keys.npy"), mmap_mode="r") for part in self._parts]
        alive = [np.ones(len(part), dtype=np.bool_) for part in keys]
        # From the surest reason to the weakest: a paper is counted under the first one that applies to it. Near duplicates
        # come after all exact ones, because their table holds every paper that is still alive.
        for kind in ("id", *SHARED_IDS):
            self._drop_known(kind, keys, alive)
        if self._options.exact_dedup:
            self._discard(repeated([part["text"] for part in keys], alive), alive, "text seen before")
        if self._options.near_dedup:
            signatures = [np.load(part.with_name(f"{part.name}.minhash.npy"), mmap_mode="r") for part in self._parts]
            self._discard(near_repeated(signatures, alive), alive, "near duplicate")
        tainted = [part["tainted"] & kept for part, kept in zip(keys, alive)]
        if self._options.remove_contaminated:
            self._discard(tainted, alive, "evaluation items in them")
        paths = []
        for part, key, kept in zip(self._parts, keys, alive):
            # The hash of its id decides, not a draw: a paper that was held out once is held out by every later build, of a
            # larger corpus too, so a model that continues from an older one is not validated on what that one has read.
            validation = key["split"] < np.uint64(math.ceil(self._options.validation_fraction * 2**64))
            split = np.where(kept, validation.astype(np.int8), np.int8(DROPPED))
            for number, name in enumerate(SPLITS):
                self._counts[name] += int((split == number).sum())
            paths.append(part.with_name(f"{part.name}.split.npy"))
            np.save(paths[-1], split)
        self._counts["papers: kept"] = self._counts["train"] + self._counts["validation"]
        return paths

    def _drop_known(self, kind: str, keys: list[NDArray[Any]], alive: list[NDArray[np.bool_]]) -> None:
        """Drop papers with an id that an earlier one has; an abstract counts as later than any full text.

        Papers dropped for another id are compared as well: of papers that share ids in a chain, only the first is kept.
        """
        abstract = [part["abstract"] for part in keys]
        # A key of zeros stands for "no such id", which two papers do not share.
        present = [np.asarray(part[kind].any(axis=1)) for part in keys]
        known = repeated([part[kind] for part in keys], present, abstract)
        reasons = {False: f"{kind} seen before", True: f"an abstract whose {kind} was seen before"}
        for is_abstract, reason in reasons.items():
            self._discard([k & (a == is_abstract) for k, a in zip(known, abstract)], alive, reason)

    def _discard(self, unwanted: list[NDArray[np.bool_]], alive: list[NDArray[np.bool_]], reason: str) -> None:
        """Take papers out of `alive`, in place, and count those that were still in it."""
        if dropped := sum(int((part & kept).sum()) for kept, part in zip(alive, unwanted)):
            self._counts[f"papers: dropped, {reason}"] += dropped
        for kept, part in zip(alive, unwanted):
            kept &= ~part
