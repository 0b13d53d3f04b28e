"""peS2o's quality filter (Soldaini & Lo 2023): why a cleaned paper fails it; empty when it passes.

The bounds are those of the publication and, where that is silent, of the code released with it. What concerns the record and
not the text (title, abstract, year, language) is left to the rules of these names. peS2o removes paragraphs below the bound
of the log probability; here they stay, and the paper is dropped when fewer than five others are left.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from megabiomed.corpus.unigrams import mean_log_probability, unigrams, words_of

LOWEST = -20.0
"""Mean log2 probability of the words of an abstract, or of a paragraph, in bits."""
FEWEST_PARAGRAPHS = 5
FULL_TEXT_WORDS = (500, 49_999)
ABSTRACT_WORDS = (50, 1000)
LARGEST_SHARE = 0.075
"""Of the most frequent word in a full text."""
_TOP_WORD = re.compile("[A-Za-z][a-z]+")
_TOP_WORD_OF_ABSTRACT = re.compile("[A-Za-z]{2,}")


def why_not_pes2o(text: str, words: Sequence[str], is_abstract: bool) -> str:
    """The first of the filter's bounds that a text misses.

    Args:
        text: with a line end at least between paragraphs.
        words: the text split at white space.
        is_abstract: nothing but a title and an abstract, for which other bounds hold.

    Raises:
        ConfigError: the word counts are not installed.
    """
    fewest, most = ABSTRACT_WORDS if is_abstract else FULL_TEXT_WORDS
    kind = "an abstract" if is_abstract else "a full text"
    if len(words) < fewest:
        return f"peS2o, fewer than {fewest} words in {kind}"
    if len(words) > most:
        return f"peS2o, more than {most} words in {kind}"
    if not (_has_common_word(words) if is_abstract else _has_rare_enough_word(words)):
        return f"peS2o, most frequent word of {kind}"
    table = unigrams()
    if is_abstract:
        return "" if mean_log_probability(words_of(text), table) > LOWEST else "peS2o, log probability of an abstract"
    found = list(paragraphs(text))
    if len(found) < FEWEST_PARAGRAPHS:
        return f"peS2o, fewer than {FEWEST_PARAGRAPHS} paragraphs"
    likely = 0
    for paragraph in found:
        likely += mean_log_probability(words_of(paragraph), table) >= LOWEST
        if likely == FEWEST_PARAGRAPHS:  # the others cannot change it
            return ""
    return f"peS2o, fewer than {FEWEST_PARAGRAPHS} paragraphs above the log probability"


def paragraphs(text: str) -> Iterator[str]:
    """Lines, each joined with the next ones until one ends as a sentence does: a header belongs to the paragraph below it."""
    held: list[str] = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        held.append(line)
        if line[-1] in ".?!":
            yield " ".join(held)
            held = []
    if held:
        yield " ".join(held)


def _has_common_word(words: Sequence[str]) -> bool:
    """Whether the most frequent word has two letters or more; or it is "a", and the next one has."""
    ranked = [word for word, _ in Counter(words).most_common(2)]
    if ranked[0] == "a":
        ranked = ranked[1:]
    return bool(ranked) and _TOP_WORD_OF_ABSTRACT.fullmatch(ranked[0]) is not None


def _has_rare_enough_word(words: Sequence[str]) -> bool:
    """Whether the most frequent word is an ordinary one ("the", "The"), and not too large a share of all words."""
    word, count = Counter(words).most_common(1)[0]
    return _TOP_WORD.fullmatch(word) is not None and count <= LARGEST_SHARE * len(words)
