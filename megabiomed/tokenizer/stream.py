"""Text of tokens as they are generated: no half characters, and in the end the same text as of all tokens together."""

from __future__ import annotations

from collections.abc import Iterable

from megabiomed.tokenizer.interface import Tokenizer

_BROKEN = "\ufffd"


class StreamDecoder:
    """Decodes tokens one after the other.

    Joined, its texts are `tokenizer.decode` of all ids: also where a character is made of several byte pieces, and where
    the tokenizer takes a space from the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._shown = 0

    def put(self, ids: Iterable[int]) -> str:
        """The text that these ids complete; "" where they leave a character unfinished."""
        self._ids += ids
        # Bytes that make no character yet are shown as U+FFFD at the end.
        return self._new(self._tokenizer.decode(self._ids).rstrip(_BROKEN))

    def end(self) -> str:
        """What was held back: the model stopped within a character, or did write U+FFFD."""
        return self._new(self._tokenizer.decode(self._ids))

    def _new(self, text: str) -> str:
        new, self._shown = text[self._shown :], max(self._shown, len(text))
        return new
