"""Validation loss of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.report import newest
from megabiomed.data.loader import ValidationLoader
from megabiomed.data.store import TokenStore
from megabiomed.errors import DataError
from megabiomed.evaluate.figures import perplexity
from megabiomed.evaluate.single import load_single


def validate_checkpoint(path: Path, store: Path | None, samples: int) -> tuple[float, float, int]:
    """(mean loss per token, perplexity, tokens) on a store; None takes the store that the run validates on."""
    config, engine = load_single(newest(path, hashes=False))
    folder = store or config.data.validation
    if folder is None:
        raise DataError("the run has no validation store", do="pass --store")
    loader = ValidationLoader(TokenStore.open(folder), config.data, samples)
    total, tokens = engine.evaluate(loader.micro_batches())
    loss = total / max(1, tokens)
    return loss, perplexity(loss), tokens
