"""More pieces for an existing SentencePiece BPE: its training is continued on new words, on top of its own merges.

Every new piece joins two pieces that are there already and ranks below all old ones. Text is therefore cut as before, and
only then joined further: old pieces keep their ids, and a model that knows them can be trained on (`model.init_from`
starts each new row from the mean of the old ones; see model/vocabulary.py).
"""

from __future__ import annotations

import heapq
import re
from collections import ChainMap, Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import write_atomic
from megabiomed.tokenizer.sentencepiece_bpe import SentencePieceTokenizer

SPACE = "\u2581"
"""SentencePiece's mark of a space; it also stands before the first word of a text."""
MAX_PIECE = 24
"""Characters of a new piece at most."""
MAX_DISTINCT = 2_000_000
"""Different words that are counted at once; above it the rarest are forgotten."""
_WORD = re.compile(r" ?[^\W\d_]+")


def extend_tokenizer(
    base: Path, texts: Iterable[str], output: Path, pieces: int
) -> tuple[SentencePieceTokenizer, list[str]]:
    """Add up to `pieces` pieces of letters to a tokenizer and store it as `output`.

    Returns:
        the new tokenizer and its new pieces, in the order of their ids.

    Raises:
        TokenizerError: `base` is no BPE, or the texts hold no pair of pieces twice.
    """
    from sentencepiece import sentencepiece_model_pb2

    SentencePieceTokenizer(base)
    proto = sentencepiece_model_pb2.ModelProto.FromString(base.read_bytes())  # type: ignore[attr-defined]
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        raise TokenizerError(
            f"{base} cannot be extended", got="no BPE model", do="give a tokenizer.model like Llama-2's"
        )
    ranks = piece_scores(proto)
    new = learn_pieces(count_words(texts), ranks, pieces)
    if not new:
        raise TokenizerError("the texts hold no pieces to join", got=f"{pieces} asked for", do="give more text")
    lowest = min(ranks.values(), default=0.0)
    for number, piece in enumerate(new, start=1):
        proto.pieces.add(piece=piece, score=lowest - number, type=proto.SentencePiece.NORMAL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, proto.SerializeToString())
    return SentencePieceTokenizer(output), new


def parts_of_new_pieces(old_file: Path, new_file: Path) -> list[list[int]]:
    """For each piece of a tokenizer beyond those of an older one, the old ids of its text.

    Raises:
        TokenizerError: the new one is not an extension of the old one.
    """
    from sentencepiece import sentencepiece_model_pb2

    files = (old_file, new_file)
    old, new = (sentencepiece_model_pb2.ModelProto.FromString(file.read_bytes()) for file in files)  # type: ignore[attr-defined]
    kept = [piece.piece for piece in new.pieces[: len(old.pieces)]]
    if kept != [piece.piece for piece in old.pieces]:
        raise TokenizerError(
            f"{new_file} is no extension of {old_file}", got="other pieces under the same ids",
            do="extend the tokenizer of the folder with `megabiomed tokenizer extend`",
        )  # fmt: skip
    scores, ids = piece_scores(old), {piece: number for number, piece in enumerate(kept)}
    return [
        [number for part in cut(piece.piece, scores) for number in _ids(part, ids)]
        for piece in new.pieces[len(old.pieces) :]
    ]


def _ids(part: str, ids: dict[str, int]) -> list[int]:
    """The id of a piece, or those of its bytes."""
    return [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]


def piece_scores(proto: Any) -> dict[str, float]:
    """Pieces that merges make, with their scores; the higher is joined first."""
    return {piece.piece: piece.score for piece in proto.pieces if piece.type == proto.SentencePiece.NORMAL}


def cut(text: str, scores: Mapping[str, float]) -> list[str]:
    """The pieces of a text of letters and marks of spaces, by merges of the best score, the leftmost first."""
    parts = list(text)
    while len(parts) > 1:
        joined = [scores.get(left + right, -float("inf")) for left, right in pairwise(parts)]
        best = max(joined)
        if best == -float("inf"):
            break
        place = joined.index(best)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


def count_words(texts: Iterable[str]) -> Counter[str]:
    """Runs of letters with the mark of the space before them, and how often each occurs."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(f" {text}"))
        if len(counts) > MAX_DISTINCT:
            counts = Counter(dict(counts.most_common(MAX_DISTINCT // 2)))
    return Counter({word.replace(" ", SPACE): count for word, count in counts.items()})


def learn_pieces(words: Mapping[str, int], scores: Mapping[str, float], wanted: int) -> list[str]:
    """The next `wanted` merges of byte-pair encoding (Sennrich et al. 2016), the most frequent pair first.

    Ties go to the pair that sorts first, so that the result depends on the counts alone.
    """
    merger = Merger([cut(word, scores) for word in words], list(words.values()))
    found: dict[str, float] = {}
    lowest = min(scores.values(), default=0.0)
    while len(found) < wanted and (pair := merger.best()) is not None:
        piece = "".join(pair)
        merger.join(pair)
        if piece not in scores and piece not in found:
            found[piece] = lowest - 1 - len(found)
    # An old merge between two new pieces can cut otherwise than was learned from: such pieces are never reached.
    every = ChainMap(found, dict(scores))
    while unreached := [piece for piece in found if cut(piece, every) != [piece]]:
        for piece in unreached:
            del found[piece]
    return list(found)


class Merger:
    """Words as pieces, and how often each pair of neighbours occurs in them.

    Args:
        words: the pieces of each word, which are joined in place.
        weights: how often each word occurs.
    """

    def __init__(self, words: list[list[str]], weights: list[int]) -> None:
        self._weights, self._words = weights, words
        self._counts: Counter[tuple[str, str]] = Counter()
        self._where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        for number in range(len(self._words)):
            self._note(number, 1)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def best(self) -> tuple[str, str] | None:
        """The most frequent pair that occurs at least twice."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if self._counts[pair] == -count and -count > 1:
                return pair
        return None

    def join(self, pair: tuple[str, str]) -> None:
        """Join a pair wherever it occurs."""
        changed: set[tuple[str, str]] = set()
        for number in sorted(self._where.pop(pair)):
            changed |= self._note(number, -1)
            self._words[number] = _joined(self._words[number], pair)
            changed |= self._note(number, 1)
        for each in changed:
            if self._counts[each] > 0:
                heapq.heappush(self._heap, (-self._counts[each], each))

    def _note(self, number: int, sign: int) -> set[tuple[str, str]]:
        pairs = [pair for pair in pairwise(self._words[number]) if sum(map(len, pair)) <= MAX_PIECE]
        for pair in pairs:
            self._counts[pair] += sign * self._weights[number]
            (self._where[pair].add if sign > 0 else self._where[pair].discard)(number)
        return set(pairs)


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found
