"""SentencePiece at the speed of a dictionary: every different word is encoded once, a text is the joined bytes of its words.

A BPE merge joins two neighbouring pieces into a piece of the vocabulary. Where no piece holds two given neighbouring
characters, no merge ever crosses between them, so both sides are encoded alone. In Llama's vocabularies that is so
before every space that follows another character, and before every line end.
"""

from __future__ import annotations

from array import array
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
        self._known = _Words(processor, np.dtype(dtype).char)
        self._alone = not why_not(processor)

    def encode(self, text: str) -> bytes:
        """Ids of a text, without BOS and EOS, as bytes of the type given."""
        if not self._alone or not _is_plain(text):
            return self._known.ids_of(text)
        if len(self._known) > MAX_WORDS:
            self._known.clear()
        # A line end begins a word of its own: "end.\n\nNext" becomes "end.", "\n", "\nNext", the latter two without a space.
        return b"".join(map(self._known.__getitem__, text.replace("\n", " \n").split(" ")))


class _Words(dict[str, bytes]):
    """Words to the bytes of their ids; a word that is looked up for the first time is encoded."""

    def __init__(self, processor: Any, code: str) -> None:
        super().__init__()
        self._encode, self._code = processor.encode, code
        self._space = array(code, [processor.piece_to_id(SPACE)]).tobytes()

    def __missing__(self, word: str) -> bytes:
        ids = self.ids_of(word) or self._space
        self[word] = ids = ids[len(self._space) :] if word[:1] == "\n" else ids
        return ids

    def ids_of(self, text: str) -> bytes:
        """Ids of any text."""
        return array(self._code, self._encode(text)).tobytes()


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
    if trained.user_defined_symbols or any(piece.type == piece.USER_DEFINED for piece in proto.pieces):
        return "it has user-defined pieces"
    pieces = processor.id_to_piece(list(range(processor.get_piece_size())))
    if any(SPACE in piece.lstrip(SPACE) or "\n" in piece[1:] for piece in pieces):
        return "a piece goes on beyond a space or a line end"
    return ""
