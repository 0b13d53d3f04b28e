"""Documents to token ids by GigaToken (Rød 2026), several times as fast as the libraries that the tokenizers come from.

GigaToken serves only where it gives the ids of the reference, the tokenizer itself (choose_encoder.py). Its batches run on
threads of their own, one for each core; `encode`, which is used here, stays on the thread that calls it, so that the
workers of a build take one core each and can be forked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import gigatoken
import numpy as np
from numpy.typing import NDArray

from megabiomed.tokenizer.interface import Tokenizer

MAX_CHARACTERS = 100_000_000
"""Characters after which GigaToken is loaded anew: it remembers every word for ever, up to 8 bytes for a character where
no word occurs twice. Loading takes a tenth of a second."""


class DocumentEncoder:
    """Encodes documents: BOS (where the model has one) + tokens + EOS.

    Args:
        tokenizer: the reference. It encodes whatever GigaToken refuses.
        converted: what GigaToken reads, `Tokenizer.text_json`; None lets the reference encode everything.
    """

    def __init__(self, tokenizer: Tokenizer, converted: str | None) -> None:
        self._refused: Counter[str] = Counter()
        self._tokenizer, self._converted = tokenizer, converted
        self._characters = 0
        self._encode = None if converted is None else load_gigatoken(converted)

    def encode(self, texts: Iterable[str], dtype: type[np.integer[Any]]) -> list[bytes]:
        """The documents as bytes of ids of this type."""
        if self._converted is None:
            return self._tokenizer.encode_documents(texts, dtype)
        first, last = (np.array(ids, dtype).tobytes() for ids in (self._tokenizer.start, [self._tokenizer.eos_id]))
        kind = np.dtype(dtype)  # made once: numpy would make it for every text
        found = []
        for text in texts:
            self._characters += len(text)
            if self._encode is None or self._characters > MAX_CHARACTERS:
                self._encode, self._characters = load_gigatoken(self._converted), len(text)
            try:
                found.append(b"".join((first, self._encode(text).astype(kind).tobytes(), last)))
            except BaseException as error:
                self._refused[refusal(error)] += 1
                self._encode = None  # what an error in the middle of it leaves behind is not known
                found += self._tokenizer.encode_documents([text], dtype)
        return found

    def taken_refusals(self) -> dict[str, int]:
        """How many texts the reference encoded since the last call because GigaToken failed on them, by what it said."""
        refused, self._refused = self._refused, Counter()
        return dict(refused)


def load_gigatoken(converted: str) -> Callable[[str], NDArray[np.uint32]]:
    """GigaToken's function that encodes a text. Raises whatever the library does; see `refusal`."""
    encode: Callable[[str], NDArray[np.uint32]] = gigatoken.Tokenizer.from_json(converted).backend.encode
    return encode


def refusal(error: BaseException) -> str:
    """What GigaToken said when it failed; raises what is no failure of it."""
    # A panic of its Rust code is no Exception.
    if isinstance(error, MemoryError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    return str(error).strip().partition("\n")[0] or type(error).__name__
