"""Tokenize documents with several processes, in order and in bounded memory; the result does not depend on how many."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.tokenizer import Tokenizer
from megabiomed.errors import WorkerError

BATCH = 64
"""Documents that travel to a worker at once."""
BATCHES_IN_FLIGHT = 4
"""Per worker. Bounds what waits in memory when writing is slower than tokenizing."""

Document = dict[str, Any]
Encoded = tuple[NDArray[np.int32], Document]

_tokenizer: Tokenizer | None = None


def encode_documents(documents: Iterator[Document], tokenizer: Path, workers: int) -> Iterator[Encoded]:
    """Yield (token ids with BOS and EOS, the document without its "text") in the order of `documents`.

    Args:
        documents: objects with a "text".
        workers: processes; 1 encodes in this one.

    Raises:
        WorkerError: a worker process died, most often for want of memory.
    """
    batches = _batches(documents)
    if workers == 1:
        _start_worker(tokenizer)
        for batch in batches:
            yield from _encode(batch)
        return
    # spawn: forking would copy the locks of the progress bar's thread in whatever state they are.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer,)) as pool:
        waiting: deque[Future[list[Encoded]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(_encode, batch))
                if len(waiting) >= BATCHES_IN_FLIGHT * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise WorkerError(
                "a tokenizing process died", got=f"{workers} workers", do="check the memory, or pass fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while batch := list(islice(documents, BATCH)):
        yield batch


def _start_worker(path: Path) -> None:
    global _tokenizer
    _tokenizer = Tokenizer(path)


def _encode(batch: list[Document]) -> list[Encoded]:
    assert _tokenizer is not None
    encoded = _tokenizer.encode_batch([document.pop("text") for document in batch])
    return [(np.asarray(ids, dtype=np.int32), document) for ids, document in zip(encoded, batch)]
