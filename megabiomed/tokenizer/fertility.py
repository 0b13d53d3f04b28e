"""How many tokens a tokenizer needs for a text: fertility, tokens a word (Rust et al. 2021), and which words it cuts most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from megabiomed.tokenizer.extend import SPACE, count_words
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class Fertility:
    """Figures of one tokenizer on one sample.

    Attributes:
        words: between white space.
        bytes: of the text in UTF-8.
        whole: share of the runs of letters, as often as they occur, that are one token.
        worst: the runs that cost most tokens in all, with tokens and occurrences.
        exact: whether decoding gave every text back.
    """

    tokens: int
    words: int
    characters: int
    bytes: int
    whole: float
    worst: list[tuple[str, int, int]]
    exact: bool

    @property
    def tokens_per_word(self) -> float:
        """Fertility."""
        return self.tokens / max(1, self.words)

    @property
    def characters_per_token(self) -> float:
        """Characters that a token stands for."""
        return self.characters / max(1, self.tokens)

    @property
    def bytes_per_token(self) -> float:
        """Bytes that a token stands for."""
        return self.bytes / max(1, self.tokens)

    @property
    def round_trip(self) -> str:
        """Whether decoding gave every text back, in words."""
        return "round trip exact" if self.exact else "round trip NOT exact"


def fertility(tokenizer: Tokenizer, texts: Iterable[str], worst: int = 10) -> Fertility:
    """Measure a tokenizer on texts."""
    tokens = words = characters = size = 0
    exact, counts = True, Counter[str]()
    for text in texts:
        ids = tokenizer.encode(text)
        tokens = tokens + len(ids)
        words = words + len(text.split())
        characters = characters + len(text)
        size += len(text.encode())
        exact = exact and tokenizer.decode(ids) == text
        counts.update(count_words([text]))
    # Behind another word: byte-level tokenizers cut the first word of a text, which has no space before it, otherwise.
    before = len(tokenizer.encode("a"))
    costs = {word: len(tokenizer.encode(f"a {word[1:]}")) - before for word in counts if word[0] == SPACE}
    ordered = sorted(costs, key=lambda word: (-(costs[word] - 1) * counts[word], word))[:worst]
    runs = sum(counts[word] for word in costs)
    whole = sum(counts[word] for word, cost in costs.items() if cost == 1) / max(1, runs)
    return Fertility(tokens, words, characters, size, whole, [(w[1:], costs[w], counts[w]) for w in ordered], exact)
