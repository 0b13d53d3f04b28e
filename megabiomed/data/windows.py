"""How a store is cut into windows of S tokens: `contiguous` cuts the stream, `best_fit` cuts long documents only.

contiguous: window n is tokens [n S, (n + 1) S) of the stream. Nothing is computed beforehand; a document is cut wherever
a window ends.
best_fit: a document longer than S fills complete windows, and the rest of each document is put, uncut, where it fits best.
Windows that are not full are padded. If that pads more than half a percent of all positions, as in small stores, the emptiest
windows are taken apart, and their content is laid end to end and cut every S tokens: fewer documents are cut than windows are
taken apart. The plan needs memory and time in proportion to the number of documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.best_fit import best_fit, poorly_filled
from megabiomed.data.packing import IGNORE_INDEX, MicroBatch, Window, empty_window
from megabiomed.data.store import TokenStore


class DocumentPart(NamedTuple):
    """Tokens [low, high) of a store's stream, all of one document."""

    document: int
    low: int
    high: int


class LeftOut(NamedTuple):
    """What no window of a store holds: so many tokens at its end, of so many documents, whole or in part."""

    tokens: int = 0
    documents: int = 0


class Readable(Protocol):
    """Numbered windows of one length."""

    def __len__(self) -> int: ...

    def fill(self, number: int, out: Window, base: int) -> None:
        """Write a window into `out`, which begins at position `base` of a micro-batch."""
        ...


class Windows(Readable, Protocol):
    """The windows of a store; a pure function of store and length."""

    @property
    def left_out(self) -> LeftOut:
        """What no window holds, and so no epoch reads."""
        ...

    def pieces(self, number: int) -> list[DocumentPart]:
        """The pieces of a window, in order."""
        ...

    def places(self, document: int) -> Iterator[tuple[int, int]]:
        """(window, tokens) of every window with a part of a document."""
        ...


def windows_of(store: TokenStore, seq_length: int, packing: str) -> Windows:
    """The windows of a store under `data.packing`."""
    return BestFitWindows(store, seq_length) if packing == "best_fit" else ContiguousWindows(store, seq_length)


def describe(store: TokenStore, windows: Windows) -> str:
    """`corpus/train: 96 windows; 31 tokens at its end, of 2 documents, fill no window and are left out`."""
    tokens, documents = windows.left_out
    of = f"of {documents:,} document{'s' if documents > 1 else ''}"
    end = f"; {tokens:,} tokens at its end, {of}, fill no window and are left out" if tokens else ""
    return f"{store.path}: {len(windows):,} windows{end}"


def left_out(stores: Sequence[TokenStore], windows: Sequence[Windows]) -> dict[str, dict[str, int]]:
    """`LeftOut` of each store that has any, by its path."""
    return {str(store.path): each.left_out._asdict() for store, each in zip(stores, windows) if each.left_out.tokens}


def window_count(store: TokenStore, seq_length: int) -> int:
    """Contiguous windows of a store: each needs seq_length tokens and the one after."""
    return (store.num_tokens - 1) // seq_length


def read_window(store: TokenStore, number: int, seq_length: int) -> Window:
    """Contiguous window `number` of a store."""
    return read(ContiguousWindows(store, seq_length), number, seq_length)


def read(windows: Readable, number: int, seq_length: int) -> Window:
    """One window."""
    out = empty_window(seq_length)
    windows.fill(number, out, 0)
    return out


def read_micro_batch(parts: Sequence[tuple[Readable, int]], seq_length: int) -> MicroBatch:
    """Windows, each given by its store's windows and its number, as one micro-batch."""
    flat = empty_window(len(parts) * seq_length)
    for row, (windows, number) in enumerate(parts):
        base = row * seq_length
        stop = base + seq_length
        out = Window(flat.tokens[base:stop], flat.labels[base:stop], flat.start[base:stop], flat.end[base:stop])
        windows.fill(number, out, base)
    return MicroBatch.from_flat(flat)


class ContiguousWindows:
    """Windows cut from the stream of all documents; the last tokens, too few for a window, are left out and counted."""

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        self._store, self._size = store, seq_length

    def __len__(self) -> int:
        return window_count(self._store, self._size)

    @property
    def left_out(self) -> LeftOut:
        """See `Windows`."""
        read, store = len(self) * self._size, self._store
        # A window also reads the token after it, as the last label: at least one token is left.
        return LeftOut(store.num_tokens - read, store.num_documents - store.document_of(read))

    def fill(self, number: int, out: Window, base: int) -> None:
        """Write a window into `out`; its label at a document's last token is masked."""
        first = number * self._size
        # One token more than the window has: its last label is the first token of the next one.
        stream = self._store.tokens(first, first + self._size + 1)
        out.tokens[:], out.labels[:] = stream[:-1], stream[1:]
        ends = self._store.document_ends
        document, place = int(ends.searchsorted(first + 1)), 0
        while place < self._size:
            end = int(ends[document]) - first
            stop = min(end, self._size)
            out.start[place:stop], out.end[place:stop] = base + place, base + stop
            # What follows the end of a document begins another one: nobody could predict it. A document that goes on in the
            # next window keeps its label.
            if end == stop:
                out.labels[stop - 1] = IGNORE_INDEX
            document, place = document + 1, stop

    def pieces(self, number: int) -> list[DocumentPart]:
        """The parts of documents between the window's ends."""
        start, stop = number * self._size, (number + 1) * self._size
        documents = range(self._store.document_of(start), self._store.document_of(stop - 1) + 1)
        bounds = ((document, *self._store.document_bounds(document)) for document in documents)
        return [DocumentPart(document, max(start, low), min(stop, high)) for document, low, high in bounds]

    def places(self, document: int) -> Iterator[tuple[int, int]]:
        """(window, tokens) of a document."""
        low, high = self._store.document_bounds(document)
        for window in range(low // self._size, min((high - 1) // self._size + 1, len(self))):
            yield window, min(high, (window + 1) * self._size) - max(low, window * self._size)


class BestFitWindows:
    """Complete windows of long documents first, document by document; then bins with the rest of each document; then the
    rests from poorly filled bins, end to end.

    Taking bins apart lowers the number of windows, which is part of the identity that a resume compares.
    """

    def __init__(self, store: TokenStore, seq_length: int) -> None:
        self._store, self._size = store, seq_length
        lengths = np.diff(store.document_ends, prepend=0)
        self._whole_ends = np.cumsum(lengths // seq_length)
        self._whole = int(self._whole_ends[-1])
        rest = (lengths % seq_length).astype(np.int32)
        documents = np.flatnonzero(rest)
        self._bins, items = best_fit(rest[documents], seq_length)
        self._rests = documents[items]  # documents, bin by bin
        filled = np.add.reduceat(rest[self._rests], self._bins[:-1], dtype=np.int64)
        self._loose = self._take_apart(poorly_filled(filled, seq_length, self._whole))
        self._loose_ends = np.cumsum(rest[self._loose], dtype=np.int64)

    def _take_apart(self, bins: NDArray[np.int64]) -> NDArray[np.int64]:
        """Leave these bins out of the plan; returns the documents in them, ascending."""
        if not len(bins):
            return bins
        counts = np.diff(self._bins)  # documents in each bin
        loose = np.repeat(np.isin(np.arange(len(counts)), bins), counts)
        documents, self._rests = self._rests[loose], self._rests[~loose]
        self._bins = np.concatenate(([0], np.cumsum(np.delete(counts, bins))))
        return np.sort(documents)

    @property
    def _before_loose(self) -> int:
        return self._whole + len(self._bins) - 1

    def __len__(self) -> int:
        loose = int(self._loose_ends[-1]) if len(self._loose) else 0
        return self._before_loose - (-loose // self._size)

    @property
    def left_out(self) -> LeftOut:
        """Nothing: what does not fill a window is padded."""
        return LeftOut()

    def pieces(self, number: int) -> list[DocumentPart]:
        """One piece of a long document, or the last pieces of several."""
        if number < self._whole:
            document = int(np.searchsorted(self._whole_ends, number, side="right"))
            before = int(self._whole_ends[document - 1]) if document else 0
            low = self._store.document_bounds(document)[0] + (number - before) * self._size
            return [DocumentPart(document, low, low + self._size)]
        if number >= self._before_loose:
            return self._loose_pieces((number - self._before_loose) * self._size)
        first, last = self._bins[number - self._whole : number - self._whole + 2]
        bounds = ((document, *self._store.document_bounds(document)) for document in self._rests[first:last].tolist())
        return [DocumentPart(document, high - (high - low) % self._size, high) for document, low, high in bounds]

    def _loose_pieces(self, place: int) -> list[DocumentPart]:
        """The window of loose ends that begins at `place`; documents are cut there and where the window ends."""
        pieces, stop = [], min(place + self._size, int(self._loose_ends[-1]))
        item = int(self._loose_ends.searchsorted(place, side="right"))
        while place < stop:
            document, end = int(self._loose[item]), int(self._loose_ends[item])
            high = self._store.document_bounds(document)[1]
            pieces.append(DocumentPart(document, high - (end - place), high - max(0, end - stop)))
            item, place = item + 1, end
        return pieces

    def fill(self, number: int, out: Window, base: int) -> None:
        """Write a window into `out`, padded at the end by positions without labels."""
        place = 0
        for document, low, high in self.pieces(number):
            stop = place + high - low
            stream = self._store.tokens(low, high + 1)
            out.tokens[place:stop], out.labels[place : place + len(stream) - 1] = stream[: high - low], stream[1:]
            if high == int(self._store.document_ends[document]):
                out.labels[stop - 1] = IGNORE_INDEX
            out.start[place:stop], out.end[place:stop] = base + place, base + stop
            place = stop
        out.tokens[place:], out.labels[place:] = 0, IGNORE_INDEX
        # The padding is a document of its own, so attention over it is defined and touches no other.
        out.start[place:], out.end[place:] = base + place, base + self._size

    def places(self, document: int) -> Iterator[tuple[int, int]]:
        """(window, tokens) of a document."""
        low, high = self._store.document_bounds(document)
        last = int(self._whole_ends[document])
        for window in range(last - (high - low) // self._size, last):
            yield window, self._size
        rest = (high - low) % self._size
        if len(positions := np.flatnonzero(self._loose == document)):
            end = int(self._loose_ends[positions[0]])
            for window in range((end - rest) // self._size, (end - 1) // self._size + 1):
                tokens = min(end, (window + 1) * self._size) - max(end - rest, window * self._size)
                yield self._before_loose + window, tokens
        elif rest:
            place = int(np.flatnonzero(self._rests == document)[0])
            yield self._whole + int(np.searchsorted(self._bins, place, side="right")) - 1, rest
