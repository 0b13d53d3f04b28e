"""More pieces for a byte-level BPE (tokenizer.json): further merges on top of its own, learned as in extend.py.

New merges rank below all old ones: text is cut as before and only then joined further, so old pieces keep their meaning.
New ids follow the highest id there is, behind the control tokens.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import tokenizers
from tokenizers import pre_tokenizers

from megabiomed.ground.errors import TokenizerError
from megabiomed.ground.files import write_atomic, write_json
from megabiomed.tokenizer.extend import SPACE, Merger, count_words
from megabiomed.tokenizer.files import JSON, companions
from megabiomed.tokenizer.hugging_face import HuggingFaceTokenizer, Values, made, merge_of
from megabiomed.tokenizer.interface import Tokenizer


def extend_json(
    base: HuggingFaceTokenizer, texts: Iterable[str], output: Path, pieces: int
) -> tuple[HuggingFaceTokenizer, list[str]]:
    """Add up to `pieces` pieces to a tokenizer; the files beside it are copied.

    Args:
        output: a folder, or tokenizer.json in one; not that of `base`.

    Returns:
        the new tokenizer and the texts of its new pieces, in the order of their ids.

    Raises:
        TokenizerError: the tokenizer is not byte-level, the texts hold no pair of pieces twice, or `output` has another name.
    """
    target = _target(output, base)
    words = _pieces_of_words(base, count_words(texts))
    pairs = _learn(words, pieces, set(base.values["model"]["vocab"]))
    pairs = _reached(base, pairs)
    if not pairs:
        raise TokenizerError("the texts hold no pieces to join", got=f"{pieces} asked for", do="give more text")
    target.parent.mkdir(parents=True, exist_ok=True)
    for file in companions(base.path):
        write_atomic(target.with_name(file.name), file.read_bytes())
    write_json(target, _with_merges(base, pairs))
    return HuggingFaceTokenizer(target), [_as_text("".join(pair)) for pair in pairs]


def _target(output: Path, base: HuggingFaceTokenizer) -> Path:
    target = output if output.name == JSON else output / JSON
    if output.suffix and output.name != JSON:
        raise TokenizerError(
            f"{output} cannot be written", got=output.name, expected=f"a folder, or {JSON} in one",
            do=f"name a folder: a {JSON} needs the files beside it",
        )  # fmt: skip
    if target.resolve() == base.path.resolve():
        raise TokenizerError(f"{output} is the tokenizer to extend", do="name another folder")
    return target


def _pieces_of_words(base: HuggingFaceTokenizer, words: Mapping[str, int]) -> Counter[tuple[str, ...]]:
    """Words as the pieces that the tokenizer makes of them, and how often each occurs."""
    # Made of the values that were read and checked: the library's own reader takes no byte-order mark.
    splitter = made(base.values, base.path).pre_tokenizer
    if "ByteLevel" not in json.dumps(base.values.get("pre_tokenizer")):
        raise TokenizerError(
            f"{base.path} cannot be extended", got="no byte-level BPE", do="extend the tokenizer.model beside it"
        )
    names = {number: piece for piece, number in base.values["model"]["vocab"].items()}
    found: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        text = word.replace(SPACE, " ")
        # A word that is cut before the merges (`Don't`, letters with marks) is several for BPE.
        parts = [text[low:high] for _, (low, high) in splitter.pre_tokenize_str(text)]
        for part in parts:
            found[tuple(names[number] for number in base.encode(part))] += count
    return found


def _learn(words: Counter[tuple[str, ...]], wanted: int, known: set[str]) -> list[tuple[str, str]]:
    """The next merges, the most frequent pair first, without any whose piece is there already."""
    merger = Merger([list(parts) for parts in words], list(words.values()))
    pairs: list[tuple[str, str]] = []
    while len(pairs) < wanted and (pair := merger.best()) is not None:
        if "".join(pair) in known:  # another way to an old piece would change which old pieces a text gets
            continue
        merger.join(pair)
        pairs.append(pair)
        known.add("".join(pair))
    return pairs


def _reached(base: HuggingFaceTokenizer, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Without the merges whose piece no text ever gets, and without those that build on one of them."""
    while True:
        made = tokenizers.Tokenizer.from_str(json.dumps(_with_merges(base, pairs)))
        made.pre_tokenizer, made.normalizer = pre_tokenizers.Sequence([]), None  # pieces are bytes as BPE sees them
        lost = {"".join(pair) for pair in pairs if len(made.encode("".join(pair), add_special_tokens=False).ids) > 1}
        kept, gone = [], set(lost)
        for pair in pairs:
            if "".join(pair) in lost or not gone.isdisjoint(pair):
                gone.add("".join(pair))
            else:
                kept.append(pair)
        if len(kept) == len(pairs):
            return kept
        pairs = kept


def _with_merges(base: HuggingFaceTokenizer, pairs: list[tuple[str, str]]) -> Values:
    held, model = base.values, base.values["model"]
    # `tokenizers` numbers added tokens from the size of the vocabulary on, unless the vocabulary has them.
    added = {token["content"]: token["id"] for token in held["added_tokens"]}
    new = {"".join(pair): base.vocab_size + number for number, pair in enumerate(pairs)}
    merges = [*map(merge_of, model["merges"]), *map(list, pairs)]
    return {**held, "model": {**model, "vocab": {**model["vocab"], **added, **new}, "merges": merges}}


def _as_text(piece: str) -> str:
    return str(tokenizers.decoders.ByteLevel().decode([piece]))


def parts_of_new_pieces(base: Tokenizer, extended: HuggingFaceTokenizer) -> list[list[int]]:
    """For each id of a tokenizer beyond those of an older one, the old ids of its text.

    Raises:
        TokenizerError: the new one is not an extension of the old one.
    """
    if not isinstance(base, HuggingFaceTokenizer) or not _extends(base, extended):
        raise TokenizerError(
            f"{extended.path} is no extension of {base.path}", got="other pieces under the same ids, or other rules",
            do="extend the tokenizer of the folder with `megabiomed tokenizer extend`",
        )  # fmt: skip
    old, new = _ids(base), _ids(extended)
    parts = {piece: [number] for piece, number in old.items()}
    for left, right in map(merge_of, extended.values["model"]["merges"][len(base.values["model"]["merges"]) :]):
        parts.setdefault(left + right, [*parts[left], *parts[right]])
    beyond = sorted((number, piece) for piece, number in new.items() if number >= base.vocab_size)
    if [number for number, _ in beyond] != list(range(base.vocab_size, extended.vocab_size)):
        raise TokenizerError(f"{extended.path} has ids without a piece", do="give each new piece the next id")
    # What no merge makes is a token that was added by hand, such as a tag.
    return [parts[piece] if piece in parts else base.encode(piece) for _, piece in beyond]


def _extends(base: HuggingFaceTokenizer, extended: HuggingFaceTokenizer) -> bool:
    old, new = base.values, extended.values
    before, after = (list(map(merge_of, each["model"]["merges"])) for each in (old, new))
    ids = _ids(extended)
    same = all(old.get(key) == new.get(key) for key in ("normalizer", "pre_tokenizer"))
    return same and after[: len(before)] == before and all(ids.get(p) == n for p, n in _ids(base).items())


def _ids(tokenizer: HuggingFaceTokenizer) -> dict[str, int]:
    held = tokenizer.values
    return {**held["model"]["vocab"], **{token["content"]: token["id"] for token in held["added_tokens"]}}
