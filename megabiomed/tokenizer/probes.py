"""Texts on which a converted tokenizer must give the ids of SentencePiece, made from the pieces of the model itself.

A conversion goes wrong where one tokenizer knows something as a whole and the other does not: pieces that are never
split, names of control and byte pieces that stand in a text, characters without a piece, and spaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

NORMAL = 1
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5
BYTE = 6
"""Kinds of pieces in SentencePiece's model files."""


class Piece(NamedTuple):
    """A piece that is not of a model file."""

    piece: str
    type: int


_SPACES = " \t\n\r\v\f\x85\xa0\u1680\u2000\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\u2581\x00\x1f\xad"
_TEXTS = (
    "", "Hello world", " two  spaces   and more    ", "line\nbreak\t\ttab", "BRCA1 binds α-helix at 3.14 µM (p < 0.05)",
    "CC(=O)Oc1ccccc1C(=O)O", "MKTAYIAKQRQISFVKSHFSRQ", "naïve 中文 🧬 \u200bzero width", "e\u0301 a\u0308\u0323 ﬁ ½ ① Å",
    "한글 \u1112\u1161\u11ab ﷺ 👩\u200d🔬 🇨🇭",
)  # fmt: skip
_CHUNK = 12
FEW = 500
"""Ordinary pieces, about, that texts are made of where not every one is."""


def probe_texts(pieces: Iterable[Any], thorough: bool = True) -> Iterator[str]:
    """Texts made from the pieces of a model file (`ModelProto.pieces`).

    Args:
        thorough: several texts for each piece; else of the ordinary pieces only some hundreds, which takes a tenth of a
            second in place of several.
    """
    named: dict[int, list[str]] = {}
    for piece in pieces:
        named.setdefault(piece.type, []).append(piece.piece)
    yield from _TEXTS
    yield from _spaces()
    whole = [text for kind in (UNKNOWN, CONTROL, USER_DEFINED, UNUSED) for text in named.get(kind, [])]
    for text in [*whole, *named.get(BYTE, [])[:: max(1, len(named.get(BYTE, [])) // 16)]]:
        yield from _around(text.replace("▁", " "))
    yield from _joined(whole)
    normal = [text.replace("▁", " ") for text in named.get(NORMAL, [])]
    yield from _normal(normal if thorough else normal[:: 1 + len(normal) // FEW])
    yield from _characters(alone=thorough)


def _spaces() -> Iterator[str]:
    """Runs of every kind of space: alone, inside and at the ends of a text."""
    for space in _SPACES:
        for length in (1, 2, 3, 8):
            run = space * length
            yield from (run, f"a{run}b", f"{run}a", f"a{run}", f" {run} a")
    yield from (" " * length for length in range(1, 40))


def _around(text: str) -> Iterator[str]:
    """A piece alone, twice, within words, between spaces, and its beginnings and ends."""
    yield from (text, text * 2, f"a{text}b", f" {text} ", f"a {text} b", f"{text}\n{text}a", text.upper(), text.lower())
    yield from (text[:-1], text[1:], f"a{text[:-1]} b", f"a{text[:-1]}{text}", f"{text}{text[1:]}")


def _joined(texts: Sequence[str]) -> Iterator[str]:
    """Neighbours in the list next to each other, both ways round: where one begins as another ends, or holds it."""
    for left, right in zip(texts, texts[1:]):
        yield from (left + right, right + left, f"a{left}b{right}")


def _normal(texts: list[str]) -> Iterator[str]:
    yield from texts
    yield from (text[:-1] for text in texts if len(text) > 1)
    for start in range(0, len(texts), _CHUNK):
        chunk = texts[start : start + _CHUNK]
        yield from ("".join(chunk), "".join(reversed(chunk)), " ".join(chunk), "a".join(chunk))


def _characters(alone: bool) -> Iterator[str]:
    """Characters of every block of Unicode, most of which have no piece: in rows, and `alone` in a word."""
    numbers = [*range(0x600), *range(0x600, 0x3000, 7), *range(0x3000, 0x110000, 251)]
    characters = iter([chr(number) for number in numbers if not 0xD800 <= number < 0xE000])
    while row := list(islice(characters, _CHUNK)):
        yield from (f"a{character}" for character in row if alone)
        yield from ("".join(row), " ".join(row))
