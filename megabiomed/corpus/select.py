"""Which papers are kept: small rules, most of them off by default; a paper is counted under the first rule that drops it.

The rules are those of the published recipes: BioMedGPT and PMC-LLaMA (a PMC or PubMed id), MEDITRON (language of the first
2,000 characters), peS2o (title and abstract, year, paragraphs, words, the most frequent word; as a whole `pes2o_quality`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from megabiomed.corpus.headers import is_placeholder
from megabiomed.corpus.licences import kind_of_licence, licences_among
from megabiomed.corpus.pes2o import why_not_pes2o
from megabiomed.corpus.quality import why_not_fineweb, why_not_gopher
from megabiomed.corpus.records import Paper
from megabiomed.ground.errors import DataError

LANGUAGE_CHARACTERS = 2000  # as MEDITRON does


@dataclass(frozen=True)
class SelectRules:
    """What a paper must be. Zero or empty switches a rule off."""

    require_medical_id: bool = True
    """Only papers with a PMC or PubMed id."""
    require_title: bool = False
    require_abstract: bool = False
    """Only papers with a marked abstract."""
    min_year: int = 0
    """Only papers of this year or later; those without a year are kept."""
    min_paragraphs: int = 0
    """Only papers with at least this many marked paragraphs."""
    min_words: int = 50
    """Only papers with at least this many words after cleaning."""
    max_words: int = 0
    """Only papers with at most this many words after cleaning."""
    licence: str = ""
    """Only papers with one of these licences, separated by commas (cc-by,cc0); papers without one are dropped."""
    language: str = ""
    """Only papers whose first 2,000 characters are of this language (en, de, ...), by py3langid."""
    gopher_quality: bool = False
    """Only papers that pass the quality filter of Gopher's MassiveText, which FineWeb and others use."""
    fineweb_quality: bool = False
    """Only papers that pass FineWeb's own filter of lines."""
    pes2o_quality: bool = False
    """Only papers that pass peS2o's filter of texts: words, paragraphs, most frequent word, log probability of the words."""
    max_word_share: float = 0.0
    """Only papers whose most frequent word is made of letters and at most this share of all words (peS2o: 0.075)."""


def why_dropped_unread(paper: Paper, rules: SelectRules) -> str:
    """The rule by which a paper's record fails, before it is cleaned; empty when it passes all."""
    # Before cleaning: a large part of S2ORC fails the first rule, and need not be cleaned for that.
    if rules.require_medical_id and not has_medical_id(paper):
        return "no PMC or PubMed id"
    if rules.require_title and not paper.title.strip():
        return "no title"
    if rules.require_abstract and not has_abstract(paper):
        return "no abstract"
    if paper.year is not None and paper.year < rules.min_year:
        return f"before {rules.min_year}"
    if rules.licence and paper.licence not in licences_among(rules.licence):
        return f"licence {kind_of_licence(paper.licence)}"
    if len(paper.spans.get("paragraph", [])) < rules.min_paragraphs:
        return f"fewer than {rules.min_paragraphs} paragraphs"
    return ""


def why_dropped(text: str, rules: SelectRules, is_abstract: bool) -> str:
    """The rule by which a cleaned text fails; empty when it passes all. `is_abstract`: it holds no more than an abstract."""
    # Most builds only ask whether there are enough words, and the first ones tell.
    counted = rules.max_words or rules.max_word_share or rules.gopher_quality or rules.pes2o_quality
    words = text.split() if counted else text.split(None, rules.min_words)
    if len(words) < rules.min_words:
        return f"fewer than {rules.min_words} words"
    if rules.max_words and len(words) > rules.max_words:
        return f"more than {rules.max_words} words"
    # After the cheap rules: recognising a language takes about a millisecond.
    if rules.language and (language := language_of(text)) != rules.language:
        return f"language {language or 'unknown'}"
    if rules.max_word_share and is_repetitive(words, rules.max_word_share):
        # Tables of numbers, and text in which the parser lost the spaces.
        return f"one word is more than {rules.max_word_share:g} of all, or is no word"
    if rules.gopher_quality and (reason := why_not_gopher(text, words)):
        return reason
    if rules.fineweb_quality and (reason := why_not_fineweb(text)):
        return reason
    return why_not_pes2o(text, words, is_abstract) if rules.pes2o_quality else ""


def has_medical_id(paper: Paper) -> bool:
    """Whether a paper is in PubMed Central or PubMed, BioMedGPT's selection."""
    return "pmc" in paper.ids or "pubmed" in paper.ids


def has_abstract(paper: Paper) -> bool:
    """Whether a paper has a marked abstract with text; "nan" is none."""
    spans = paper.spans.get("abstract", [])
    return any(not is_placeholder(paper.text[span.start : span.end]) for span in spans)


def language_of(text: str) -> str:
    """ISO 639-1 code of the language of a text's beginning."""
    import py3langid

    return str(py3langid.classify(text[:LANGUAGE_CHARACTERS])[0])


def is_repetitive(words: list[str], share: float) -> bool:
    """Whether the most frequent word makes up more than this share of all words, or is not made of ASCII letters."""
    if not words:
        return False
    word, count = Counter(words).most_common(1)[0]
    return not (word.isascii() and word.isalpha()) or count > share * len(words)


def parse_rules(kind: type[Any], settings: list[str]) -> Any:
    """Rules (a dataclass of bool, int, float and str fields) from `name=value` texts.

    Raises:
        DataError: an unknown rule, or a value of another type or out of range.
    """
    # The annotations are texts in modules with `from __future__ import annotations`, so parsers are found by name.
    known = {field.name: _PARSERS[str(field.type)] for field in fields(kind)}
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in known:
            raise DataError(f"there is no rule {name!r}", expected=", ".join(known), do="pass --rule NAME=VALUE")
        try:
            values[name] = known[name](value)
        except ValueError:
            raise DataError(
                f"rule {name} has a wrong value",
                got=repr(value),
                expected=_KINDS[known[name]],
                do="pass --rule NAME=VALUE",
            ) from None
    return kind(**values)


def _switch(value: str) -> bool:
    if value.lower() not in ("on", "true", "off", "false"):
        raise ValueError(value)
    return value.lower() in ("on", "true")


def _count(value: str) -> int:
    if int(value) < 0:
        raise ValueError(value)
    return int(value)


def _share(value: str) -> float:
    if not 0 <= float(value) < math.inf:  # nan is neither
        raise ValueError(value)
    return float(value)


_PARSERS: dict[str, Callable[[str], Any]] = {"bool": _switch, "int": _count, "float": _share, "str": str}
_KINDS: dict[Callable[[str], Any], str] = {
    _switch: "on or off",
    _count: "a whole number, zero or more",
    _share: "a finite number, zero or more",
    str: "a text",
}
