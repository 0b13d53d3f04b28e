"""SentencePiece at the speed of a dictionary: every different word is encoded once, a text is the joined bytes of its words.

A BPE merge joins two neighbouring pieces into a piece of the vocabulary. Where no piece holds two given neighbouring
characters, no merge ever crosses between them, so both sides are encoded alone. In Llama's vocabularies that is so
before every space that follows another character, and before every line end.

For the same reason new words are encoded together, joined by single spaces, and their ids are cut apart again where a
piece begins with a space: a call for each word would cost as much as its encoding.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPACE = "\u2581"
"""SentencePiece's mark of a space; it also stands before the first word of a text."""
MAX_WORDS = 1_000_000
"""Different words that are remembered, some 150 bytes each; then the memory starts anew."""
CHUNK = 500
"""New words that are encoded together."""


class WordEncoder:
    """Encodes texts to the bytes of their token ids, always those that SentencePiece gives.

    A model whose vocabulary or normalisation forbids to encode words alone is asked for every text itself.

    Args:
        processor: a SentencePieceProcessor.
        dtype: type of the ids.
    """

    def __init__(self, processor: Any, dtype: type[np.integer[Any]]) -> None:
        self._encode, self._dtype = processor.encode, np.dtype(dtype)
        pieces: list[str] = processor.id_to_piece(list(range(processor.get_piece_size())))
        self._alone = not why_not(processor)
        self._begins_word = np.fromiter((piece[:1] == SPACE for piece in pieces), np.bool_, len(pieces))
        self._space = np.array([processor.piece_to_id(SPACE)], self._dtype).tobytes()
        self._known = _Known({"": self._space})

    def encode(self, texts: Iterable[str]) -> list[bytes]:
        """Ids of each text, without BOS and EOS, as bytes of the type given."""
        found: list[list[bytes | bytearray]] = []
        try:
            for text in texts:
                found.append(self._found(text))
                if len(self._known.new) >= CHUNK:
                    self._learn()
            self._learn()
        except BaseException:  # no place that was not filled may be found later
            self._known = _Known({"": self._space})
            raise
        return list(map(b"".join, found))

    def _found(self, text: str) -> list[bytes | bytearray]:
        """Ids of a text's parts, or places for them."""
        if not self._alone or not _is_plain(text):
            return [self._ids(text).tobytes()]
        # A line end begins a word of its own: "end.\n\nNext" becomes "end.", "\n", "\nNext", the latter two without a space.
        return list(map(self._known.__getitem__, text.replace("\n", " \n").split(" ")))

    def _learn(self) -> None:
        """Encode the new words, fill the places that wait for them, and remember their bytes."""
        new, self._known.new = self._known.new, []
        for start in range(0, len(new), CHUNK):
            words = new[start : start + CHUNK]
            ids = self._ids_of_words(words)
            for place, found in zip(map(self._known.__getitem__, words), ids):
                place += found
            self._known.update(zip(words, ids))
        if len(self._known) > MAX_WORDS:
            self._known = _Known({"": self._space})

    def _ids_of_words(self, words: list[str]) -> list[bytes]:
        """Ids of each word, which stands behind a space or begins with a line end."""
        ids, size = self._ids(" ".join(words)), self._dtype.itemsize
        starts = np.flatnonzero(self._begins_word[ids])
        # No space stands before a line end: the piece for it is left out.
        without = np.fromiter(map(str.startswith, words, repeat("\n")), np.int64, len(words))
        if len(starts) != len(words):  # not known to happen: ask for each word alone
            return [self._ids(word).tobytes()[size * skip :] for word, skip in zip(words, without.tolist())]
        ends = np.append(starts[1:], len(ids))
        parts = map(slice, ((starts + without) * size).tolist(), (ends * size).tolist())
        return list(map(ids.tobytes().__getitem__, parts))

    def _ids(self, text: str) -> NDArray[np.integer[Any]]:
        """Ids of any text, as SentencePiece gives them."""
        return np.frombuffer(array(self._dtype.char, self._encode(text)), self._dtype)


class _Known(dict[str, "bytes | bytearray"]):
    """Words to the bytes of their ids. A word that is looked up for the first time is put down in `new` and gets an empty
    place, which is filled once the word is encoded; so no word of a text is looked up twice.
    """

    def __init__(self, known: dict[str, bytes]) -> None:
        super().__init__(known)
        self.new: list[str] = []

    def __missing__(self, word: str) -> bytearray:
        self[word] = place = bytearray()
        self.new.append(word)
        return place


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
