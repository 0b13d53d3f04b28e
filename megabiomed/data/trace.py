"""Which papers a step reads, and at which steps a paper is read: both computed from the order, without a replay.

`RunSteps` knows which samples a step has, because restarts and rewinds move them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from megabiomed.data.loader import TrainLoader
from megabiomed.data.steps import RunSteps, StepSamples
from megabiomed.data.store import DOCUMENTS, TokenStore, origin_of
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
        stands: False where the run went back behind that step afterwards, by a rewind or a restart.
    """

    step: int
    sample: int
    source: int
    epoch: int
    window: int
    provenance: dict[str, Any]
    tokens: int
    stands: bool = True


def trace_step(loader: TrainLoader, samples: StepSamples) -> Iterator[Reading]:
    """The documents of every sample of a step, in the order of the global batch."""
    for sample, (source, epoch, window) in enumerate(
        loader.order.sample_ids(samples.first, samples.size).tolist(), samples.first
    ):
        for document, low, high in loader.texts[source].pieces(window):
            provenance = loader.stores[source].provenance(document)
            yield Reading(samples.step, sample, source, epoch, window, provenance, high - low, samples.stands)


def trace_paper(loader: TrainLoader, name: str, steps: RunSteps, epochs: int = 1) -> list[Reading]:
    """Where a paper was or will be read in the first `epochs` passes over its store, by step.

    Args:
        name: a paper_id, or an external id such as PMC123 or the number of PubMed.
        steps: of the run.

    Raises:
        DataError: no store of this run has the paper, it is in the few tokens that fill no window, or the run passed it over.
    """
    readings: list[Reading] = []
    known = placed = False
    for source, store in enumerate(loader.stores):
        for document, provenance in _documents(store, name):
            known = True
            for (window, tokens), epoch in product(loader.texts[source].places(document), range(epochs)):
                placed = True
                sample = loader.order.position(source, epoch, window)
                readings += [
                    Reading(held.step, sample, source, epoch, window, provenance, tokens, held.stands)
                    for held in steps.of_sample(sample)
                ]
    if not known:
        raise DataError(
            f"no training store of this run has the paper {name}",
            do="check the id; `megabiomed corpus inspect` says why papers were dropped, and some are held out",
        )
    if not placed:
        raise DataError(
            f"the paper {name} is never read",
            got="its tokens are the last of its store, too few for a window",
            do="set data.packing=best_fit, or shorten data.seq_length",
        )
    if not readings:
        raise DataError(
            f"the paper {name} is never read", got="the run passed its samples over, or begins behind them",
            do="look at the events `rewind` and `start` of the run",
        )  # fmt: skip
    return sorted(readings, key=lambda reading: (reading.sample, reading.step))


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
