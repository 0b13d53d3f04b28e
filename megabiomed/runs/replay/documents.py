"""Which document a token of a micro-batch belongs to."""

from __future__ import annotations

from typing import Any

from megabiomed.data.loader import SampleLoader


def piece_of(loader: SampleLoader, first_sample: int, micro_batch: int, token: int) -> dict[str, Any]:
    """The piece of a document that a token is in.

    Args:
        first_sample: global number of the step's first sample.
        micro_batch: of this rank, from 0.
        token: of the micro-batch.

    Returns:
        sample (global number), source, epoch, window; part (number of the piece in the window), tokens (of the window, from
        and up to) and paper_id. Of padding, and of data that do not tell their documents, the whole window.
    """
    size = loader.data.seq_length
    row, place = divmod(token, size)
    sample = first_sample + loader.replica_samples.start + micro_batch * loader.data.micro_batch_size + row
    source, epoch, window = loader.order.sample_ids(sample, 1)[0].tolist()
    found: dict[str, Any] = {"sample": sample, "source": source, "epoch": epoch, "window": window}
    documents = loader.documents[source] if source < len(loader.documents) else None
    for number, part in enumerate(documents.parts(window) if documents is not None else ()):
        if documents is not None and part.place <= place < part.place + part.size:
            paper = str(documents.origin(part.document)["paper_id"])
            return {**found, "part": number, "tokens": [part.place, part.place + part.size], "paper_id": paper}
    return {**found, "part": None, "tokens": [0, size]}
