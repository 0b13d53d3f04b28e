"""How common the words of a text are in general English: log probabilities from the unigram counts that peS2o uses.

The counts are those of the 333,000 most frequent words in Google's Web 1T corpus (Brants & Franz 2006, LDC2006T13), as Norvig
published them. They are read from the package `wordsegment`, which an extra installs: nothing of them is in this package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from megabiomed.ground.errors import ConfigError, DataError

PACKAGE, COUNTS = "wordsegment", "unigrams.txt"
# Numbers with a point or commas are one word, and so is every mark: nearly as blingfire, which peS2o uses, cuts them.
_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+|[^\w\s]")


class UnigramTable(dict[str, float]):
    """Word in lower case to its log2 probability; `unknown` for any other word, number or mark."""

    unknown: float

    def __missing__(self, word: str) -> float:
        return self.unknown


def need_unigrams() -> Path:
    """The file of the counts.

    Raises:
        ConfigError: the package that holds it is not installed.
    """
    found = find_spec(PACKAGE)
    file = Path(found.origin).with_name(COUNTS) if found is not None and found.origin else None
    if file is None or not file.is_file():
        raise ConfigError(
            f"corpus build --rule pes2o_quality=on needs {PACKAGE}, which is not installed here",
            do='pip install "megabiomed[corpus-quality]", or leave the rule off',
        )
    return file


@cache
def unigrams() -> UnigramTable:
    """The table of all counted words; about 0.3 s and 40 MB in each process.

    Raises:
        ConfigError: the package that holds the counts is not installed.
        DataError: the file of the counts is damaged.
    """
    file = need_unigrams()
    try:
        with file.open(encoding="utf-8") as lines:
            return table_of(lines)
    except ValueError:
        raise DataError(
            f"{file} is damaged", expected="lines of a word, a tab and a count", do=f"install {PACKAGE} again"
        ) from None


def table_of(lines: Iterable[str]) -> UnigramTable:
    """The table of lines `word<tab>count`. An unknown word counts as if it occurred √(number of words) + 1 times, as in peS2o.

    Raises:
        ValueError: there is no line, or one that is none of this kind.
    """
    table, total = UnigramTable(), 0
    for line in lines:
        word, count = line.split("\t")
        table[word] = math.log2(int(count))
        total += int(count)
    all_words = math.log2(total)
    for word in table:
        table[word] -= all_words
    table.unknown = math.log2(math.sqrt(len(table)) + 1) - all_words
    return table


def words_of(text: str) -> list[str]:
    """The words, numbers and marks of a text, in lower case."""
    return _WORD.findall(text.lower())


def mean_log_probability(words: list[str], table: UnigramTable) -> float:
    """Mean log2 probability of words (bits, negative); that of an unknown word where there are none."""
    return sum(map(table.__getitem__, words)) / len(words) if words else table.unknown
