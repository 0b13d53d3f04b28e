"""Which library encodes the documents of a build, decided on a sample of them before the first part is tokenized."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megabiomed.corpus.cleaned_parts import read_texts
from megabiomed.ground.files import write_atomic
from megabiomed.tokenizer.choose_encoder import EncoderChoice, EncoderComparison

_LOG = logging.getLogger(__name__)
CONVERTED = "gigatoken.json"
"""The tokenizer as GigaToken reads it, made once for all workers; in the folder of an unfinished build."""
SAMPLE_CHARACTERS = 300_000
"""Characters that are compared, about: a tenth of a second of the reference."""
SAMPLE_PARTS = 32
"""Parts that they are taken from, at even distances."""


@dataclass(frozen=True)
class Encoding:
    """How the documents of a build are encoded.

    Attributes:
        converted: for `TokenJob`.
    """

    converted: Path | None
    choice: EncoderChoice

    def account(self, refused: Sequence[dict[str, int]]) -> dict[str, Any]:
        """For manifests and reports.

        Args:
            refused: of each part, how many texts GigaToken refused, by what it said.
        """
        total = Counter[str]()
        for part in refused:
            total.update(part)
        if total:
            _LOG.warning(
                "GigaToken refused %d texts, which the tokenizer itself encoded: %s", total.total(), dict(total)
            )
        return {**self.choice.account(), **({"refused": dict(sorted(total.items()))} if total else {})}


def choose_encoding(
    comparison: EncoderComparison, parts: Sequence[Path], splits: Sequence[Path], working: Path
) -> Encoding:
    """Compare GigaToken with the tokenizer on a sample of the documents; a difference is logged as a warning.

    Args:
        comparison: of the tokenizer.
        parts: cleaned parts, in order: the sample depends on nothing else.
        splits: of each, the file that says which of its documents are kept.
        working: folder for `CONVERTED`.
    """
    choice = comparison.choice(_sample(parts, splits))
    if choice.converted is None:
        _LOG.warning("%s encodes, not GigaToken: %s", choice.reference, choice.reason)
        return Encoding(None, choice)
    write_atomic(working / CONVERTED, choice.converted)
    return Encoding(working / CONVERTED, choice)


def _sample(parts: Sequence[Path], splits: Sequence[Path]) -> Iterator[str]:
    """The first documents of parts at even distances."""
    chosen = list(zip(parts, splits))[:: 1 + (len(parts) - 1) // SAMPLE_PARTS]
    for part, split in chosen:
        left = SAMPLE_CHARACTERS // len(chosen)
        for text in read_texts(part, (np.load(split) >= 0).tolist()):
            if left <= 0:
                break
            left -= len(text)
            yield text
