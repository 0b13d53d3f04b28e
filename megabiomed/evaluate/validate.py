"""Validation loss of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from megabiomed.checkpoint.locate import newest
from megabiomed.data.loader import ValidationLoader
from megabiomed.data.store import TokenStore
from megabiomed.evaluate.single import load_single
from megabiomed.ground.errors import DataError
from megabiomed.ground.figures import perplexity


def validate_checkpoint(
    path: Path, store: Path | None, samples: int, base: Path | None = None
) -> tuple[float, float, int]:
    """(mean loss per token, perplexity, tokens) on a store.

    Args:
        store: None takes the store that the run validates on.
        base: where the model is beside which adapters were trained, if it has moved.
    """
    config, engine = load_single(newest(path, hashes=False), base)
    folder = store or config.data.validation
    if folder is None:
        raise DataError("the run has no validation store", do="pass --store")
    loader = ValidationLoader(TokenStore.open(folder), config.data, samples)
    total, tokens = engine.evaluate(loader.micro_batches())
    loss = total / max(1, tokens)
    return loss, perplexity(loss), tokens
