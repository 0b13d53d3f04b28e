"""An explanation as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from megabiomed.ground.figures import shown
from megabiomed.runs.explain.found import Explanation, Piece


def lines_of(found: Explanation, top: int) -> Iterator[str]:
    """What the command prints.

    Args:
        top: pieces to show; 0: all.
    """
    last = found.first_sample + found.samples - 1
    done = "" if found.stands else " (the run computed this step anew later)"
    yield f"step {found.step} of {found.run}: global samples {found.first_sample} to {last}{done}"
    if found.event is not None:
        told = {key: value for key, value in found.event.items() if key not in ("time", "event", "step", "samples")}
        yield f"event: {found.event['event']}, " + ", ".join(f"{key} {value}" for key, value in told.items())
    if found.loss is not None:
        yield f"loss with the weights of step {found.checkpoint}: {shown(found.loss, '.4f')} per token"
    if found.note:
        yield f"note: {found.note}"
    shown_pieces = found.pieces[: top or None]
    order = "the worst first" if found.checkpoint is not None else "in the order of the batch"
    yield f"documents, {order}{_of(len(shown_pieces), len(found.pieces))}:"
    for piece in shown_pieces:
        yield _line(piece, found.checkpoint is not None)


def _line(piece: Piece, with_loss: bool) -> str:
    loss = "" if not with_loss else f"loss: {'none' if piece.loss is None else shown(piece.loss, '.4f')} "
    low, high = piece.tokens
    what = f" title: {piece.title}" if piece.title else f" begins: {piece.begins}" if piece.begins else ""
    return (
        f"{loss}paper: {piece.paper_id} tokens: {low} to {high - 1} "
        f"sample: {piece.sample} source: {piece.source} epoch: {piece.epoch} window: {piece.window}"
        f"{' (quarantined)' if piece.quarantined else ''}{what}"
    )


def _of(shown_pieces: int, pieces: int) -> str:
    return "" if shown_pieces == pieces else f" ({shown_pieces} of {pieces}; --top 0 shows all)"
