"""From global sample numbers to windows with items in them, in the same resumable order as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from megabiomed.config import DataConfig
from megabiomed.config.align import AlignConfig
from megabiomed.data.loader import SampleLoader, Source
from megabiomed.data.packing import IGNORE_INDEX, Inserts, MicroBatch, Window, padding_window
from megabiomed.data.parts import Papers
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import ContiguousWindows, read_window, window_count
from megabiomed.encoders.adaptors import rows_out
from megabiomed.encoders.modality import Features, modality_of
from megabiomed.encoders.schedule import EncoderItem
from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.batch import AlignBatch, empty_ids
from megabiomed.samples.multimodal.store import QaStore, StoredItem
from megabiomed.samples.parts import Records
from megabiomed.samples.windows import AnswerWindows, Expanded

# Part of the data's identity: raise it with the order, so that a resume notices.
ORDER_VERSION = 1


class PlacedItem(NamedTuple):
    """An item in a window.

    Attributes:
        at, places: first of its places in the window, and their number.
    """

    stored: StoredItem
    at: int
    places: int


@dataclass(frozen=True)
class Placed:
    """A window with its items, in the order of their places."""

    window: Window
    items: list[PlacedItem]


class QaWindows(AnswerWindows):
    """Records of a split packed into windows of `seq_length` places, with room for the items of each.

    Raises:
        DataError: the split has items of a modality that the run does not have, or nothing that fits into a window.
    """

    store: QaStore

    def __init__(self, store: QaStore, align: AlignConfig, seq_length: int, seed: int) -> None:
        self._adaptors = {part.name: part.adaptor for part in align.parts()}
        _check_modalities(store, align)
        super().__init__(store, seq_length, seed)
        if len(self) == 0:
            raise DataError(
                f"{store.path} has no record that fits into a window",
                got=f"{len(store)} records, {self.too_long} longer than data.seq_length = {seq_length}",
                do="raise data.seq_length, or use adaptors of kind resampler, which shorten long items",
            )

    def _lengths(self) -> NDArray[np.int64]:
        """Places of each record: its tokens and embeddings without the last token, which is only predicted."""
        store, names = self.store, list(self.store.modalities)
        seen = np.array([self.places(names[k], int(r)) - 1 for k, r in zip(store.kinds, store.rows)], np.int64)
        # reduceat gives an empty range the value at its start; records without items are set to 0 after it.
        extra = np.add.reduceat(np.append(seen, 0), store.item_ends[:-1]) if len(store) else seen
        extra = np.where(np.diff(store.item_ends) > 0, extra, 0)
        return super()._lengths() + extra

    def places(self, modality: str, rows: int) -> int:
        """Embeddings of an item in the language model."""
        return rows_out(self._adaptors[modality], rows)

    def items(self, window: int) -> list[StoredItem]:
        """The items of a window, in the order of their places."""
        return [item for record in self.records(window) for item in self.store.record_items(record)]

    def place(self, window: int) -> Placed:
        """One window with its items."""
        found: list[PlacedItem] = []

        def expand(record: int, place: int) -> Expanded:
            ids, targets, items = self._expand(record)
            found.extend(item._replace(at=place + item.at) for item in items)
            return ids, targets

        return Placed(self._pack(window, expand), found)

    def _expand(self, record: int) -> tuple[NDArray[np.int64], NDArray[np.int64], list[PlacedItem]]:
        """Inputs and next-token labels of a record with room for its items; labels only on answer and EOS."""
        stored, labels = self._masked(record)
        items = list[PlacedItem]()
        parts = []
        targets = []
        low = 0
        at = 0
        for place, item in zip(np.flatnonzero(stored < 0).tolist(), self.store.record_items(record)):
            count = self.places(item.modality, item.rows)
            # Token 0 stands in until the engine puts the item's embedding there.
            parts += [stored[low:place], np.zeros(count, np.int64)]
            targets += [labels[low:place], np.full(count, IGNORE_INDEX, np.int64)]
            items.append(PlacedItem(item, at + place - low, count))
            at, low = at + place - low + count, place + 1
        full = np.concatenate([*parts, stored[low:]])
        target = np.concatenate([*targets, labels[low:]])
        # The last token is only predicted, and the first one never is.
        return full[:-1], target[1:], items


def _check_modalities(store: QaStore, align: AlignConfig) -> None:
    kinds = {part.name: modality_of(part.kind) for part in align.parts()}
    for name in {list(store.modalities)[kind] for kind in np.unique(store.kinds)}:
        if name not in kinds:
            raise DataError(
                f"{store.path} has items of {name}, and the run has no such modality", expected=", ".join(kinds),
                do=f"add align.modalities.{name}, or leave the dataset out",
            )  # fmt: skip
        if kinds[name] is not store.modalities[name]:
            raise DataError(
                f"{store.path} was made with another modality of the name {name}", got=repr(store.modalities[name]),
                expected=repr(kinds[name]), do="make it again, or correct align.modalities",
            )  # fmt: skip


class AlignLoader(SampleLoader):
    """Steps that mix question splits and text; ranks without language model get items and no windows."""

    def __init__(
        self, stores: Sequence[QaStore], align: AlignConfig, data: DataConfig, seed: int, text_share: float = 0.0,
        dp_rank: int | None = 0, dp_size: int = 1,
    ) -> None:  # fmt: skip
        self.stores = list(stores)
        self.windows = [QaWindows(store, align, data.seq_length, seed) for store in stores]
        asked = zip(stores, self.windows, align.train)
        sources = [Source(store.fingerprint, len(windows), source.weight) for store, windows, source in asked]
        self.text = TokenStore.open(align.replay) if text_share and align.replay else None
        if self.text is not None:
            # Solves text / (text + questions) = text_share for the weight of the text.
            weight = text_share / (1 - text_share) * sum(source.weight for source in align.train)
            sources.append(Source(self.text.fingerprint, window_count(self.text, data.seq_length), weight))
        super().__init__(sources, data, seed, {"order_version": ORDER_VERSION}, dp_rank, dp_size)
        self.documents = [Records(each) for each in self.windows]
        if self.text is not None:
            self.documents.append(Papers(self.text, ContiguousWindows(self.text, data.seq_length)))
        # -1 where rows follow the item; another number of a resampler's queries would pack other windows.
        rows = [rows_out(part.adaptor, -1) for part in align.parts()]
        self.identity |= {"adaptors": rows, "sources": self.identity.pop("sources")}

    def batch_at(self, first_sample: int) -> AlignBatch:
        """See the base class."""
        step, share = super().batch_at(first_sample), self.data.global_batch_size // self.dp_size
        # Samples of a step are dealt to the replicas in consecutive shares.
        items = [
            _item(self.windows[s], s, found, number // share, first_sample + number)
            for number, (s, _, w) in enumerate(step.sample_ids.tolist()) if s < len(self.windows)
            for found in self.windows[s].items(w)
        ]  # fmt: skip
        return AlignBatch(**vars(step), items=items, features=self.features)

    def read(self, samples: list[list[int]]) -> MicroBatch:
        """See the base class."""
        return _micro_batch([self._placed(source, window) for source, _, window in samples])

    def _placed(self, source: int, window: int) -> Placed:
        if source < len(self.windows):
            return self.windows[source].place(window)
        assert self.text is not None
        return Placed(read_window(self.text, window, self.data.seq_length), [])

    def features(self, item: EncoderItem) -> Features:
        """Features of one item."""
        return self.stores[item.source].features(item.modality, item.row)


class AlignValidation:
    """The first windows of a held-out split, equally many micro-batches on each rank.

    Args:
        shift: 1 gives every sample the molecules and proteins of another one: a model that reads them must do worse.
    """

    def __init__(self, store: QaStore, align: AlignConfig, data: DataConfig, samples: int, seed: int,
                 dp_rank: int | None = 0, dp_size: int = 1, shift: int = 0) -> None:  # fmt: skip
        self.store = store
        self.data = data
        self.dp_rank = dp_rank
        self.dp_size = dp_size
        self.shift = shift
        self.windows = QaWindows(store, align, data.seq_length, seed)
        self.samples = min(samples, len(self.windows))

    def note(self) -> str:
        """How much of the split is read."""
        long = f", {self.windows.too_long} questions longer than a window left out" if self.windows.too_long else ""
        return f"validation: the first {self.samples:,} of {len(self.windows):,} windows (train.eval_samples){long}"

    def batch(self) -> AlignBatch:
        """Everything at once; nothing of it is counted as consumed."""
        size = self.data.micro_batch_size
        share = -(-self.samples // (self.dp_size * size)) * size
        items = [_item(self.windows, 0, found, n // share, n)
                 for n in range(self.samples) for found in self.windows.items(n)]  # fmt: skip
        # Padded, because every rank must bring equally many micro-batches to the collectives.
        mine = [self.windows.place(n) if n < self.samples else Placed(padding_window(self.data.seq_length), [])
                for n in _part(self.dp_rank, share)]  # fmt: skip
        return AlignBatch(_micro_batches(mine, size), empty_ids(), 0, items, self._features(items))

    def _features(self, items: list[EncoderItem]) -> Callable[[EncoderItem], Features]:
        """Features by item; shifted ones come from the next item of the same kind, made to have its rows."""
        store = self.store
        if not self.shift:
            return lambda item: store.features(item.modality, item.row)
        by_kind = {name: [item.row for item in items if item.modality == name] for name in store.modalities}
        other = {
            (name, row): next((r for r in rows[i + self.shift :] + rows[:i] if r != row), row)
            for name, rows in by_kind.items() for i, row in enumerate(rows)
        }  # fmt: skip

        def shifted(item: EncoderItem) -> Features:
            features = store.features(item.modality, other[item.modality, item.row])
            found: Features = store.modalities[item.modality].resized(features, item.rows_in)
            return found

        return shifted


def _part(dp_rank: int | None, share: int) -> range:
    """Numbers of a replica's samples in a global batch; no replica has none."""
    return range(0) if dp_rank is None else range(dp_rank * share, (dp_rank + 1) * share)


def _item(windows: QaWindows, source: int, found: StoredItem, consumer: int, sample: int) -> EncoderItem:
    places = windows.places(found.modality, found.rows)
    return EncoderItem(found.modality, source, found.row, found.rows, places, consumer, sample)


def _micro_batches(placed: list[Placed], size: int) -> list[MicroBatch]:
    return [_micro_batch(placed[low : low + size]) for low in range(0, len(placed), size)]


def _micro_batch(group: list[Placed]) -> MicroBatch:
    plain = MicroBatch.from_windows([p.window for p in group])
    length = len(group[0].window.tokens)
    # Windows lie one after the other in a micro-batch, so places are shifted by their length.
    where = [number * length + np.arange(item.at, item.at + item.places)
             for number, p in enumerate(group) for item in p.items]  # fmt: skip
    places = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *where]).astype(np.int64))
    return replace(plain, inserts=Inserts(places))
