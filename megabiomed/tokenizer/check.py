"""The one check that a run's data and its model belong to one tokenizer, whatever kind of run it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


class Tokenized(Protocol):
    """A store of tokens: of texts, of questions, with molecules and proteins or without."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def tokenizer_path(self) -> Path:
        """A copy of the tokenizer that made it, kept in the store."""

    @property
    def tokenizer_sha256(self) -> str:
        """Of that tokenizer."""


def check_tokenizer(stores: Sequence[Tokenized], vocab_size: int, given: Path | None = None) -> Tokenizer:
    """The tokenizer of a run: it made every store, and each of its pieces has a row in the model.

    Args:
        stores: everything that the run reads, at least one.
        vocab_size: rows of the model.
        given: the tokenizer that the run is told to use; None takes the first store's.

    Raises:
        TokenizerError: another one made a store, or has more pieces than the model has rows.
    """
    tokenizer = open_tokenizer(given or stores[0].tokenizer_path)
    for store in stores:
        advice = f"build it again with {tokenizer.path}, or use the tokenizer that made it for the run and all its data"
        tokenizer.check_same(store.path, store.tokenizer_sha256, advice)
    # More rows than pieces are normal: padded vocabularies, tokens that were added. No label ever names them.
    if tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            "the tokenizer does not fit the model",
            got=f"{tokenizer.vocab_size} pieces in {tokenizer.path}",
            expected=f"at most model.vocab_size = {vocab_size}",
            do=f"build the data with the tokenizer of the model that the run starts from, or set "
            f"model.vocab_size={tokenizer.vocab_size} for a model that starts from nothing or is to grow",
        )
    return tokenizer
