"""Quality filters of published corpora: why a cleaned text fails one; empty when it passes.

Their thresholds are those of the publications and of the code released with them (`datatrove`). They were set for web pages,
so both are off by default: BioMedGPT's recipe has none, and papers with many short lines (formulas) would be dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

GOPHER_WORD_LENGTH = (3.0, 10.0)
GOPHER_SYMBOLS, GOPHER_BULLETS = 0.1, 0.9
GOPHER_ELLIPSES, GOPHER_LETTERS = 0.3, 0.8
GOPHER_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
GOPHER_FEWEST_STOP_WORDS = 2
FINEWEB_POINTS, FINEWEB_DUPLICATES = 0.12, 0.01
FINEWEB_SHORT, FINEWEB_SHORT_LINE = 0.67, 30
FINEWEB_LINES = 0.3
_POINTS = (".", "?", "!", "。", "…", '"', "'", "”")
_EDGES = ".,;:!?()[]\"'"


def why_not_gopher(text: str, words: Sequence[str]) -> str:
    """The filter of MassiveText (Rae et al. 2021, arXiv 2112.11446, appendix A1.1), without its bounds on the number of words.

    Mean word length of 3 to 10; at most one "#" or ellipsis to ten words; at most 90 % of the lines begin with a bullet and
    30 % end with an ellipsis; 80 % of the words have a letter; two of eight stop words occur.
    """
    if not words:
        return "gopher, no words"
    length = sum(map(len, words)) / len(words)
    if not GOPHER_WORD_LENGTH[0] <= length <= GOPHER_WORD_LENGTH[1]:
        return "gopher, mean word length"
    symbols = max(text.count("#"), text.count("...") + text.count("…"))
    if symbols > GOPHER_SYMBOLS * len(words):
        return "gopher, symbols"
    lines = _lines(text)
    if sum(line.startswith(("•", "-", "*", "‣")) for line in lines) > GOPHER_BULLETS * len(lines):
        return "gopher, bullets"
    if sum(line.endswith(("...", "…")) for line in lines) > GOPHER_ELLIPSES * len(lines):
        return "gopher, lines that end with an ellipsis"
    if sum(any(map(str.isalpha, word)) for word in words) < GOPHER_LETTERS * len(words):
        return "gopher, words without a letter"
    found = {word.strip(_EDGES).lower() for word in words} & GOPHER_STOP_WORDS
    return "gopher, stop words" if len(found) < GOPHER_FEWEST_STOP_WORDS else ""


def why_not_fineweb(text: str) -> str:
    """FineWeb's own filter (Penedo et al. 2024, arXiv 2406.17557, section 3.6), with the values of its released code.

    At least 12 % of the lines end with punctuation; at most 67 % are shorter than 30 characters; at most 1 % of the characters
    stand in lines that occurred before; at most three lines to ten words.
    """
    lines = _lines(text)
    if not lines or sum(line.endswith(_POINTS) for line in lines) < FINEWEB_POINTS * len(lines):
        return "fineweb, lines that end with punctuation"
    if sum(len(line) < FINEWEB_SHORT_LINE for line in lines) > FINEWEB_SHORT * len(lines):
        return "fineweb, short lines"
    if len(lines) - 1 > FINEWEB_LINES * len(text.split()):
        return "fineweb, lists"
    seen: set[str] = set()
    repeated = 0
    for line in lines:
        repeated += len(line) if line in seen else 0
        seen.add(line)
    return "fineweb, repeated lines" if repeated > FINEWEB_DUPLICATES * sum(map(len, lines)) else ""


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n") if line.strip()]
