"""Whether GigaToken encodes the documents of a build: only if it gives the ids of the reference for every text compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.ground.errors import TokenizerError
from megabiomed.tokenizer.document_encoder import load_gigatoken, refusal
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class EncoderChoice:
    """Which library encodes.

    Attributes:
        converted: what GigaToken reads; None where the reference encodes.
        reference: library and version of the tokenizer itself.
        texts: texts compared, up to the first one that differs.
        probes: of them, made from the pieces of the tokenizer; the others are texts of the build.
        reason: why GigaToken does not encode; "" where it does.
    """

    converted: str | None
    reference: str
    texts: int = 0
    probes: int = 0
    reason: str = ""

    def account(self) -> dict[str, Any]:
        """For manifests and reports."""
        library = self.reference if self.converted is None else f"gigatoken {version('gigatoken')}"
        compared = {"reference": self.reference, "texts_compared": self.texts, "probes_compared": self.probes}
        return {"library": library, **compared, **({"reason": self.reason} if self.reason else {})}


def choose_encoder(tokenizer: Tokenizer, texts: Iterable[str]) -> EncoderChoice:
    """Compare GigaToken with a tokenizer, on texts made from its pieces and on a sample of those to be encoded."""
    return EncoderComparison(tokenizer).choice(texts)


class EncoderComparison:
    """The comparison in two parts: with the tokenizer's own pieces at once, with texts when there are some."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._encode: Callable[[str], NDArray[np.uint32]] | None = None
        self._found = self._compared_probes()

    def _compared_probes(self) -> EncoderChoice:
        library = self._tokenizer.library
        try:
            converted = self._tokenizer.text_json()
            self._encode = load_gigatoken(converted)
        except TokenizerError as error:
            return EncoderChoice(None, library, reason=f"the tokenizer cannot be converted: {error}")
        except BaseException as error:
            return EncoderChoice(None, library, reason=f"GigaToken cannot read it: {refusal(error)}")
        count, reason = self._difference(self._tokenizer.probes())
        return EncoderChoice(None if reason else converted, library, count, count, reason)

    def choice(self, texts: Iterable[str]) -> EncoderChoice:
        """What the comparison with these texts, and before with the pieces, has given."""
        if self._found.reason:
            return self._found
        count, reason = self._difference(texts)
        converted = None if reason else self._found.converted
        return replace(self._found, converted=converted, texts=self._found.probes + count, reason=reason)

    def _difference(self, texts: Iterable[str]) -> tuple[int, str]:
        """(texts compared, what differs), up to the first difference."""
        count = 0
        for count, text in enumerate(texts, start=1):
            expected = self._tokenizer.encode(text)
            try:
                assert self._encode is not None, "it is loaded"
                same, said = self._encode(text).tolist() == expected, "other ids"
            except BaseException as error:
                same, said = False, refusal(error)
            if not same:
                return count, f"{said} for {text[:60]!r}"
        return count, ""
