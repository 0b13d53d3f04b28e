"""Whether GigaToken encodes the documents of a build: only if it gives the ids of the reference for every text compared."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

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
    try:
        converted = tokenizer.text_json()
        encode = load_gigatoken(converted)
    except TokenizerError as error:
        return EncoderChoice(None, tokenizer.library, reason=f"the tokenizer cannot be converted: {error}")
    except BaseException as error:
        return EncoderChoice(None, tokenizer.library, reason=f"GigaToken cannot read it: {refusal(error)}")
    counts = [0, 0]
    for number, group in enumerate((tokenizer.probes(), texts)):
        for text in group:
            counts[number] += 1
            expected = tokenizer.encode(text)
            try:
                same = encode(text).tolist() == expected
                said = "other ids"
            except BaseException as error:
                same, said = False, refusal(error)
            if not same:
                reason = f"{said} for {text[:60]!r}"
                return EncoderChoice(None, tokenizer.library, sum(counts), counts[0], reason)
    return EncoderChoice(converted, tokenizer.library, sum(counts), counts[0])
