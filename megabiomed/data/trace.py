"""Which papers a step reads, and at which steps a paper is read: both computed from the order, without a replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from megabiomed.data.loader import TrainLoader
from megabiomed.data.store import DOCUMENTS, TokenStore, origin_of
from megabiomed.data.windows import Windows
from megabiomed.ground.errors import DataError


@dataclass(frozen=True)
class Reading:
    """A piece of a document in a sample.

    Attributes:
        step: optimizer step, from 1.
        sample: global number of the sample, from 0.
        source, epoch, window: the id of the sample.
        provenance: paper_id, source file, line, byte offset, ids.
        tokens: number of the document's tokens in that window.
    """

    step: int
    sample: int
    source: int
    epoch: int
    window: int
    provenance: dict[str, Any]
    tokens: int


def trace_step(loader: TrainLoader, step: int) -> Iterator[Reading]:
    """The documents of every sample of a step (from 1), in the order of the global batch."""
    if step < 1:
        raise DataError("steps count from 1", got=step, do="pass --step 1 or more")
    size = loader.data.global_batch_size
    first = (step - 1) * size
    if first + size > np.iinfo(np.int64).max:
        raise DataError("no run has so many steps", got=step)
    for number, (source, epoch, window) in enumerate(loader.order.sample_ids(first, size).tolist()):
        for document, low, high in loader.windows[source].pieces(window):
            provenance = loader.stores[source].provenance(document)
            yield Reading(step, first + number, source, epoch, window, provenance, high - low)


def trace_paper(loader: TrainLoader, name: str, epochs: int = 1) -> list[Reading]:
    """Where a paper was or will be read in the first `epochs` passes over its store, by step.

    Args:
        name: a paper_id, or an external id such as PMC123 or the number of PubMed.

    Raises:
        DataError: no store of this run has the paper, or it is in the few tokens that fill no window.
    """
    size = loader.data.global_batch_size
    readings, known = [], False
    for source, store in enumerate(loader.stores):
        for document, provenance in _documents(store, name):
            known = True
            for window, tokens in cast(Windows, loader.windows[source]).places(document):
                for epoch in range(epochs):
                    sample = loader.order.position(source, epoch, window)
                    readings.append(Reading(sample // size + 1, sample, source, epoch, window, provenance, tokens))
    if not known:
        raise DataError(
            f"no training store of this run has the paper {name}",
            do="check the id; `megabiomed corpus inspect` says why papers were dropped, and some are held out",
        )
    if not readings:
        raise DataError(
            f"the paper {name} is never read",
            got="its tokens are the last of its store, too few for a window",
            do="set data.packing=best_fit, or shorten data.seq_length",
        )
    return sorted(readings, key=lambda reading: reading.sample)


def _documents(store: TokenStore, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The documents of a paper."""
    # Searching a line for bytes takes a fraction of the time of parsing it, so only lines that contain the name are parsed;
    # they may still be about another paper.
    wanted = name.removeprefix("PMC").encode()
    with (store.path / DOCUMENTS).open("rb") as file:
        for number, line in enumerate(file):
            if wanted in line:
                provenance = origin_of(line, store.path, number)
                if _is_named(provenance, name):
                    yield number, provenance


def _is_named(provenance: dict[str, Any], name: str) -> bool:
    ids = provenance.get("ids") or {}
    if name.startswith("PMC"):
        return name in (str(provenance["paper_id"]), f"PMC{ids.get('pmc')}")
    return name == str(provenance["paper_id"]) or name in (ids.get(key) for key in ("pubmed", "doi", "arxiv"))
