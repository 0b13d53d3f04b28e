"""SentencePiece at the speed of a dictionary: every different word is encoded once, a text is the joined bytes of its words.

A BPE merge joins two neighbouring pieces into a piece of the vocabulary. Where no piece holds two given neighbouring
characters, no merge ever crosses between them, so both sides are encoded alone. In Llama's vocabularies that is so
before every space that follows another character, and before every line end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

SPACE = "\u2581"
"""SentencePiece's mark of a space; it also stands before the first word of a text."""
MAX_WORDS = 1_000_000
"""Different words that are remembered, some 150 bytes each; then the memory starts anew."""


class WordEncoder:
    """Encodes texts to the bytes of their token ids, always those that SentencePiece gives.

    A model whose vocabulary or normalisation forbids to encode words alone is asked for every text itself.

    Args:
        processor: a SentencePieceProcessor.
        dtype: type of the ids.
    """

    def __init__(self, processor: Any, dtype: type[np.integer[Any]]) -> None:
        self._processor, self._dtype = processor, dtype
        self._alone = not why_not(processor)
        self._space = int(processor.piece_to_id(SPACE))
        self._known: dict[str, bytes] = {}

    def encode(self, texts: Iterable[str]) -> list[bytes]:
        """Ids of each text, without BOS and EOS, as bytes of the type given."""
        return [self._joined(text) if self._alone and _is_plain(text) else self._whole(text) for text in texts]

    def _joined(self, text: str) -> bytes:
        # A line end begins a word of its own: "end.\n\nNext" becomes "end.", "\n", "\nNext", the latter two without a space.
        words = text.replace("\n", " \n").split(" ")
        known = self._known
        if new := list(set(words).difference(known)):
            if len(known) + len(new) > MAX_WORDS:
                known.clear()
                new = list(set(words))
            for word, ids in zip(new, self._processor.encode(new, num_threads=1)):
                known[word] = np.array(ids[1:] if word[:1] == "\n" else ids or [self._space], self._dtype).tobytes()
        return b"".join(map(known.__getitem__, words))

    def _whole(self, text: str) -> bytes:
        # One thread: every worker process has a core of its own.
        return np.array(self._processor.encode([text], num_threads=1)[0], self._dtype).tobytes()


def _is_plain(text: str) -> bool:
    """Whether every space begins a word: runs of spaces are pieces of their own."""
    return bool(text) and text[0] != " " and "  " not in text and SPACE not in text


def why_not(processor: Any) -> str:
    """Why words of this model cannot be encoded alone; empty when they can."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(processor.serialized_model_proto())  # type: ignore[attr-defined]
    rules, trained = proto.normalizer_spec, proto.trainer_spec
    if trained.model_type != trained.BPE or not trained.byte_fallback or trained.treat_whitespace_as_suffix:
        return "it is no BPE with byte fallback"
    if rules.precompiled_charsmap or rules.remove_extra_whitespaces or not rules.escape_whitespaces:
        return "it normalises the text"
    if not rules.add_dummy_prefix or processor.piece_to_id(SPACE) == processor.unk_id():
        return "it puts no space before the first word"
    if any(piece.type == piece.USER_DEFINED for piece in proto.pieces):
        return "it has user-defined pieces"
    pieces = [piece.piece for piece in proto.pieces if piece.type == piece.NORMAL]
    if any(SPACE in piece.lstrip(SPACE) or "\n" in piece[1:] for piece in pieces):
        return "a piece goes on beyond a space or a line end"
    return ""
