"""From global sample numbers to the micro-batches of this rank, prepared ahead by a thread."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from megabiomed.config import DataConfig
from megabiomed.config.topology import check_global_batch
from megabiomed.data.order import OrderSource, SampleOrder
from megabiomed.data.packing import MicroBatch, Window, padding_window
from megabiomed.data.parts import Papers, SourceDocuments
from megabiomed.data.prefetch import Prefetcher
from megabiomed.data.progress import DataProgress
from megabiomed.data.quarantine import Quarantine
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import ContiguousWindows, Readable, Windows, describe, read, read_micro_batch, windows_of
from megabiomed.ground.errors import DataError, TokenizerError
from megabiomed.processes import platform

ORDER_VERSION = 2
IDS_AHEAD = 4096
"""Samples whose ids are computed at once: few cost nearly as much."""


@dataclass(frozen=True)
class StepBatch:
    """What one rank computes in one optimizer step.

    Attributes:
        micro_batches: this rank's share, in order.
        sample_ids: [global_batch_size, 3] ids of the whole global batch (source, epoch, window).
        first_sample: global number of its first sample.
        marks: of samples with documents that are masked out of the loss, by row of `sample_ids`.
    """

    micro_batches: list[MicroBatch]
    sample_ids: NDArray[np.int64]
    first_sample: int
    marks: dict[int, bytes] = field(default_factory=dict, kw_only=True)


class Source(NamedTuple):
    """What the order of the samples needs to know of one source."""

    fingerprint: str
    windows: int
    weight: float


class SampleLoader(ABC):
    """Endless iterator over the steps of a run from any global sample on; the global batch is the same for every topology.

    Replica r takes the r-th contiguous part of each global batch. A subclass says with `read` how samples are read.

    Attributes:
        order: which sample each global number is.
        identity: everything that the order depends on; stored in checkpoints and compared when a run is resumed.
        documents: of each source; fewer where a kind of data does not tell them.
        quarantine: documents that are masked out of the loss.

    Args:
        identity: what the order depends on besides sources, seed and length: versions, tokenizer.
        dp_rank: replica of this rank; None on a rank that reads no samples.
    """

    def __init__(
        self, sources: Sequence[Source], data: DataConfig, seed: int, identity: dict[str, Any],
        dp_rank: int | None = 0, dp_size: int = 1, first_sample: int = 0,
    ) -> None:  # fmt: skip
        check_global_batch(data, dp_size)
        self.data, self.first_sample = data, first_sample
        self.dp_rank, self.dp_size = dp_rank, dp_size
        self.order = SampleOrder([OrderSource(source.windows, source.weight) for source in sources], seed)
        self.identity: dict[str, Any] = {
            **identity,
            "seed": seed,
            "seq_length": data.seq_length,
            "sources": [
                {"fingerprint": source.fingerprint, "share": str(share), "windows": source.windows}
                for source, share in zip(sources, self.order.mixture.shares)
            ],
        }
        self.documents: list[SourceDocuments] = []
        self.quarantine = Quarantine()
        self._ahead = (0, np.empty((0, 3), np.int64))
        self._prefetcher: Prefetcher[StepBatch] | None = None

    @abstractmethod
    def read(self, samples: list[list[int]]) -> MicroBatch:
        """The micro-batch of these samples, each (source, epoch, window). Called in the prefetching thread."""

    @property
    def samples_per_epoch(self) -> int:
        """Windows in one pass over the mixture."""
        return self.order.samples_per_epoch

    @property
    def replica_samples(self) -> range:
        """Places of this replica's samples in a global batch; none on a rank that reads no samples."""
        share = self.data.global_batch_size // self.dp_size
        return range(0) if self.dp_rank is None else range(self.dp_rank * share, (self.dp_rank + 1) * share)

    def batch_at(self, first_sample: int) -> StepBatch:
        """The step that begins at a global sample; pure, any position costs the same."""
        ids = self._sample_ids(first_sample)
        part, size = self.replica_samples, self.data.micro_batch_size
        mine = ids[part.start : part.stop].tolist()
        parts = [mine[i : i + size] for i in range(0, len(mine), size)]
        micro_batches = [self.quarantine.masked(self.read(part), part, self.data.seq_length) for part in parts]
        if platform.has_cuda():
            micro_batches = [batch.pinned() for batch in micro_batches]
        return StepBatch(micro_batches, ids, first_sample, marks=self.quarantine.marks(ids.tolist()))

    def _sample_ids(self, first: int) -> NDArray[np.int64]:
        """[global_batch_size, 3] ids of a step, from those computed for an earlier one where they hold it."""
        begin, ids = self._ahead
        number = self.data.global_batch_size
        if not begin <= first <= begin + len(ids) - number:
            begin, ids = self._ahead = (first, self.order.sample_ids(first, max(number, IDS_AHEAD)))
        return ids[first - begin : first - begin + number].copy()

    def __iter__(self) -> Iterator[StepBatch]:
        """Steps from `first_sample` on; a new iteration ends the one before it."""
        self.close()
        size = self.data.global_batch_size
        if self.data.prefetch == 0:
            for position in count(self.first_sample, size):
                yield self.batch_at(position)
        self._prefetcher = ahead = Prefetcher(self.batch_at, self.first_sample, size, self.data.prefetch)
        try:
            while not ahead.closed:
                yield ahead.next()
        finally:
            ahead.close()

    def close(self) -> None:
        """Stop the background thread; an iteration under way ends."""
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None


class WindowLoader(SampleLoader):
    """Steps of plain windows.

    Args:
        windows: of each source, in the order of `sources`.
    """

    def __init__(
        self, windows: Sequence[Readable], sources: Sequence[Source], data: DataConfig, seed: int,
        identity: dict[str, Any], dp_rank: int = 0, dp_size: int = 1, first_sample: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(sources, data, seed, identity, dp_rank, dp_size, first_sample)
        self.windows = list(windows)
        if data.packing != "contiguous":  # left out otherwise, as older checkpoints do
            self.identity["packing"] = data.packing

    def read(self, samples: list[list[int]]) -> MicroBatch:
        """See the base class."""
        return read_micro_batch([(self.windows[source], window) for source, _, window in samples], self.data.seq_length)


class TrainLoader(WindowLoader):
    """Steps of pretraining: windows of token stores.

    Attributes:
        texts: the windows of each store.
    """

    def __init__(
        self, stores: Sequence[TokenStore], weights: Sequence[float], data: DataConfig, seed: int,
        dp_rank: int = 0, dp_size: int = 1, first_sample: int = 0,
    ) -> None:  # fmt: skip
        self.stores = list(stores)
        windows = self.texts = [windows_of(store, data.seq_length, data.packing) for store in stores]
        check_stores(stores, [len(each) for each in windows], data.seq_length)
        sources = [Source(s.fingerprint, len(each), weight) for s, each, weight in zip(stores, windows, weights)]
        identity = {"order_version": ORDER_VERSION, "tokenizer": stores[0].tokenizer_sha256}
        super().__init__(windows, sources, data, seed, identity, dp_rank, dp_size, first_sample)
        self.documents = [Papers(store, each) for store, each in zip(stores, windows)]

    def notes(self) -> list[str]:
        """What is read of each store, and what is not."""
        return text_notes(self.stores, self.texts)


def text_notes(stores: Sequence[TokenStore], windows: Sequence[Windows]) -> list[str]:
    """A line for each token store: its windows, and the tokens and documents that fill none."""
    return [f"data: {describe(store, each)}" for store, each in zip(stores, windows)]


class HeldOutLoader:
    """The first windows of held-out data in fixed order; every rank gets equally many micro-batches.

    Where the samples do not divide, windows without labels fill up: they compute and count nothing, and nobody waits for a
    micro-batch that does not come.
    """

    def __init__(self, windows: Readable, data: DataConfig, samples: int, dp_rank: int = 0, dp_size: int = 1) -> None:
        self.windows, self.samples = windows, min(samples, len(windows))
        self._data = data
        self._dp_rank = dp_rank
        self._dp_size = dp_size

    @property
    def seq_length(self) -> int:
        """Tokens of a window."""
        return self._data.seq_length

    def note(self) -> str:
        """How much of the data is read."""
        return f"validation: the first {self.samples:,} of {len(self.windows):,} windows (train.eval_samples)"

    def _window(self, number: int) -> Window:
        return read(self.windows, number, self.seq_length) if number < self.samples else padding_window(self.seq_length)

    def micro_batches(self) -> list[MicroBatch]:
        """This rank's micro-batches."""
        size = self._data.micro_batch_size
        share = -(-self.samples // (self._dp_size * size)) * size
        first = self._dp_rank * share
        windows = [self._window(number) for number in range(first, first + share)]
        return [MicroBatch.from_windows(windows[i : i + size]) for i in range(0, share, size)]


class ValidationLoader(HeldOutLoader):
    """The first windows of a token store."""

    def __init__(self, store: TokenStore, data: DataConfig, samples: int, dp_rank: int = 0, dp_size: int = 1) -> None:
        windows = ContiguousWindows(store, data.seq_length)
        check_stores([store], [len(windows)], data.seq_length)
        super().__init__(windows, data, samples, dp_rank, dp_size)


def check_stores(stores: Sequence[TokenStore], windows: Sequence[int], seq_length: int) -> None:
    """Refuse a store without one whole window, and stores of different tokenizers, with a `DataError`."""
    for store, number in zip(stores, windows):
        if number < 1:
            raise DataError(
                f"{store.path} is shorter than one window",
                got=f"{store.num_tokens} tokens",
                expected=f"more than data.seq_length = {seq_length}",
                do="add papers to the corpus or shorten data.seq_length",
            )
        _check_same_tokenizer(store, stores[0])


def _check_same_tokenizer(store: TokenStore, first: TokenStore) -> None:
    if store.tokenizer_sha256 != first.tokenizer_sha256:
        raise TokenizerError(
            f"{store.path} was tokenized differently from {first.path}",
            got=f"{store.tokenizer_sha256[:12]} ({store.vocab_size} pieces)",
            expected=f"{first.tokenizer_sha256[:12]} ({first.vocab_size} pieces)",
            do="rebuild one of the stores with the other's tokenizer (`corpus build --tokenizer`)",
        )


def require_stores(data: DataConfig) -> None:
    """Raise `DataError` for a run whose `data.train` lists nothing."""
    if not data.train:
        raise DataError("there is nothing to train on", got="data.train is empty", do="list token stores in data.train")


def open_training_data(
    data: DataConfig, seed: int, dp_rank: int = 0, dp_size: int = 1, progress: DataProgress | None = None
) -> TrainLoader:
    """Open the stores of `data.train` and continue at `progress` (default: from the first sample)."""
    require_stores(data)
    stores = [TokenStore.open(source.path) for source in data.train]
    first = progress.next_sample if progress else 0
    return TrainLoader(stores, [s.weight for s in data.train], data, seed, dp_rank, dp_size, first)


def open_validation_data(data: DataConfig, samples: int, dp_rank: int = 0, dp_size: int = 1) -> ValidationLoader | None:
    """Open `data.validation`, or None when there is none; it must be tokenized as the training data is."""
    if data.validation is None:
        return None
    store = TokenStore.open(data.validation)
    if data.train:
        _check_same_tokenizer(store, TokenStore.open(data.train[0].path))
    return ValidationLoader(store, data, samples, dp_rank, dp_size)
