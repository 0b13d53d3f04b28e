"""The loss of each piece of a document, with the weights of a checkpoint, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.data.loader import SampleLoader
from megabiomed.data.packing import IGNORE_INDEX, MicroBatch
from megabiomed.engine.build import TrainEngine
from megabiomed.runs.explain.found import Piece

_ROWS = 1024
_SAY_S = 5.0


def fill_in_losses(
    engine: TrainEngine, loader: SampleLoader, pieces: Sequence[Piece], say: Callable[[str], None]
) -> None:
    """Compute the losses of all pieces, window by window.

    Args:
        pieces: in the order of the batch.
        say: told how far it is, every few seconds.
    """
    samples = [(sample, list(held)) for sample, held in groupby(pieces, key=lambda piece: piece.sample)]
    began = told = time.monotonic()
    for number, (_, held) in enumerate(samples, 1):
        first = held[0]
        batch = loader.read([[first.source, first.epoch, first.window]])
        losses = token_losses(engine, batch)
        for piece in held:
            mine = slice(piece.place, piece.place + piece.tokens[1] - piece.tokens[0])
            piece.loss_tokens = int((batch.labels[mine] != IGNORE_INDEX).sum())
            piece.loss = float(losses[mine].sum()) / piece.loss_tokens if piece.loss_tokens else None
        now = time.monotonic()
        if now - told > _SAY_S:
            told, left = now, (now - began) / number * (len(samples) - number)
            say(f"losses: {number} of {len(samples)} samples, eta: {timedelta(seconds=round(left))}")


def token_losses(engine: TrainEngine, batch: MicroBatch) -> Tensor:
    """Cross entropy of each token of a micro-batch, [t] fp64 on the host; 0 where nothing is predicted."""
    logits = engine.logits(batch)  # [t, v]
    labels = batch.labels.to(logits.device)
    # In parts: a copy of all logits would double what the largest tensor takes.
    parts = [
        F.cross_entropy(logits[at : at + _ROWS].float(), labels[at : at + _ROWS], ignore_index=IGNORE_INDEX, reduction="none")
        for at in range(0, len(labels), _ROWS)
    ]  # fmt: skip
    return torch.cat(parts).double().cpu()
