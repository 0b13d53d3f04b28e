"""Packed windows: several documents in one row of fixed length, each seeing only itself.

A window of S tokens is cut from the concatenated stream; labels are the next token, masked where it belongs to another
document. The document mask is carried as two int32 per token (`start`, `end`), see kernels/document_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from megabiomed.kernels.documents import Documents
from megabiomed.kernels.dropout import Noise
from megabiomed.kernels.shared_prefix import SharedPrefixes

IGNORE_INDEX = -100


@dataclass(frozen=True)
class Window:
    """One sample of S tokens.

    Attributes:
        tokens: [S] token ids.
        labels: [S] next tokens, IGNORE_INDEX where there is none in the same document.
        start, end: [S] int32 bounds of each token's document part inside the window.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    start: NDArray[np.int32]
    end: NDArray[np.int32]


def empty_window(size: int) -> Window:
    """Room for a sample, to be filled."""
    tokens, labels = np.empty(size, np.int64), np.empty(size, np.int64)
    return Window(tokens, labels, np.empty(size, np.int32), np.empty(size, np.int32))


def pack_window(stream: NDArray[np.integer], document_ends: NDArray[np.integer]) -> Window:
    """Make a window from S + 1 consecutive tokens.

    Args:
        stream: [S + 1] tokens.
        document_ends: ascending positions in `stream` one past the last token of a document; ends outside are ignored.
    """
    size = len(stream) - 1
    ends = np.asarray(document_ends)
    edges = np.concatenate(([0], ends[(ends > 0) & (ends < size)], [size])).astype(np.int64)
    lengths = np.diff(edges)
    tokens, labels = stream[:-1].astype(np.int64), stream[1:].astype(np.int64)
    last = edges[1:] - 1
    labels[last[:-1]] = IGNORE_INDEX
    if np.isin(size, ends):  # the token after the window starts a new document
        labels[-1] = IGNORE_INDEX
    start = np.repeat(edges[:-1], lengths).astype(np.int32)
    end = np.repeat(edges[1:], lengths).astype(np.int32)
    return Window(tokens, labels, start, end)


def padding_window(size: int) -> Window:
    """A window without labels: computes, but adds nothing to loss or gradient."""
    zeros = np.zeros(size, np.int64)
    whole = np.full(size, size, np.int32)
    return Window(zeros, np.full(size, IGNORE_INDEX, np.int64), np.zeros(size, np.int32), whole)


@dataclass(frozen=True)
class Inserts:
    """Embeddings of molecules and proteins that replace those of placeholder tokens.

    Attributes:
        places: [n] int64 tokens of the micro-batch, in the order of the rows.
        rows: [n, h] embeddings; [0, h] on a rank without the first stage. None until the engine has computed them.
    """

    places: Tensor
    rows: Tensor | None = None

    def moved(self, move: Callable[[Tensor], Tensor]) -> Inserts:
        """The same with every tensor moved."""
        return Inserts(move(self.places), None if self.rows is None else move(self.rows))


@dataclass(frozen=True)
class MicroBatch:
    """Everything that a pipeline stage reads of one forward pass of t tokens.

    Training flattens windows of S tokens (t = micro_batch_size * S), which never see each other.

    Attributes:
        tokens, labels: [t] int64.
        documents: which tokens each token sees; an evaluation may share the beginnings of documents.
        positions: [t] int64, index of each token inside its document part.
        num_loss_tokens: labels that are not masked.
        noise: names the random numbers of adapters' dropout, set by the engine; None drops nothing.
        inserts: embeddings in the place of placeholder tokens; None in text.
        scored: [n] int64 tokens whose logits are wanted, ascending; None wants all.
        loss_scale: factor of the summed loss, set by the pipeline, whose backward pass starts there; None outside of training.
    """

    tokens: Tensor
    labels: Tensor
    documents: Documents | SharedPrefixes
    positions: Tensor
    num_loss_tokens: int
    noise: Noise | None = None
    inserts: Inserts | None = None
    scored: Tensor | None = None
    loss_scale: float | None = None

    @property
    def visible_pairs(self) -> int:
        """(query, key) pairs that see each other: each token sees itself and those before it in its document.

        Cheap on the host; on a device it would wait for it.
        """
        return int(self.positions.sum()) + self.positions.numel()

    @classmethod
    def from_windows(cls, windows: Sequence[Window]) -> MicroBatch:
        """Flatten windows of equal length into one micro-batch."""
        offsets = np.cumsum([0, *(len(window.tokens) for window in windows[:-1])]).astype(np.int32)
        labels = np.concatenate([window.labels for window in windows])
        start = np.concatenate([window.start + offset for window, offset in zip(windows, offsets)])
        end = np.concatenate([window.end + offset for window, offset in zip(windows, offsets)])
        return cls.from_flat(Window(np.concatenate([window.tokens for window in windows]), labels, start, end))

    @classmethod
    def from_flat(cls, flat: Window) -> MicroBatch:
        """The micro-batch of windows that lie in one already, with bounds that count from its beginning."""
        positions = (np.arange(len(flat.start), dtype=np.int32) - flat.start).astype(np.int64)  # unlike types are slow
        return cls(
            tokens=torch.from_numpy(flat.tokens),
            labels=torch.from_numpy(flat.labels),
            documents=Documents(torch.from_numpy(flat.start), torch.from_numpy(flat.end)),
            positions=torch.from_numpy(positions),
            num_loss_tokens=int(np.count_nonzero(flat.labels != IGNORE_INDEX)),
        )

    def pinned(self) -> MicroBatch:
        """The same batch in page-locked memory, from which copies to a GPU do not wait."""
        return self._moved(lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> MicroBatch:
        """The same batch on a device."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def _moved(self, move: Callable[[Tensor], Tensor]) -> MicroBatch:
        """Every tensor moved. The bounds are made anew, once for all layers and chunks of the rank."""
        return replace(
            self,
            tokens=move(self.tokens),
            labels=move(self.labels),
            documents=self.documents.moved(move),
            positions=move(self.positions),
            inserts=None if self.inserts is None else self.inserts.moved(move),
            scored=None if self.scored is None else move(self.scored),
        )
