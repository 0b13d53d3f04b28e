"""Which papers a step reads, and at which steps a paper is read: both computed from the order, without a replay.

`RunSteps` knows which samples a step has, because restarts and rewinds move them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from megabiomed.data.loader import SampleLoader, TrainLoader
from megabiomed.data.steps import RunSteps, StepSamples
from megabiomed.ground.errors import DataError

MOST_PAPERS = 1000
"""Papers that an event names."""


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
        documents = loader.documents[source]
        for part in documents.parts(window):
            provenance = documents.origin(part.document)
            yield Reading(samples.step, sample, source, epoch, window, provenance, part.size, samples.stands)


def papers_of_step(loader: SampleLoader, first: int, size: int) -> dict[str, list[dict[str, Any]]]:
    """For an event: the papers of a step, each with its pieces (sample, first token of the paper and the token behind it).

    Empty where the sources do not tell their documents. Of steps with thousands of papers the first ones are named; the
    windows of the step tell the others.
    """
    if not loader.documents:
        return {}
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for sample, (source, _, window) in enumerate(loader.order.sample_ids(first, size).tolist(), first):
        documents = loader.documents[source]
        for part in documents.parts(window):
            if (source, part.document) not in found:
                if len(found) == MOST_PAPERS:
                    return {"papers": list(found.values())}
                origin = documents.origin(part.document)
                named = {key: origin[key] for key in ("paper_id", "title") if origin.get(key)}
                found[source, part.document] = {**named, "pieces": []}
            found[source, part.document]["pieces"].append([sample, part.first, part.first + part.size])
    return {"papers": list(found.values())}


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
        for _, document in loader.documents[source].find([name]):
            known, provenance = True, store.provenance(document)
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
