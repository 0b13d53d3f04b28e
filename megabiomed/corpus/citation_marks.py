"""Which citations go, and what stands for them until their brackets are mended.

A parenthetical citation ("[3]", "(Roe et al., 2000)") can go. A textual one is a part of its sentence ("as in [3]",
"Roe et al. (2000) showed"; the terms are those of natbib) and stays, because the sentence would not be whole without it.
Each citation that goes becomes one `MARK`; `citation_brackets` then removes the marks together with their brackets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from megabiomed.corpus.clean_text import credit

MARK = "\ufdd0"
"""Unicode guarantees that no text has this character; of one that has it all the same, cleaning makes U+FFFD."""

# Repeats are bounded, so that no line makes the search long.
_YEAR = r"(?:1[89]|20)\d\d[a-z]?(?![\w%])"
_YEARS = rf"{_YEAR}(?:\s?[,/–-]\s?(?:{_YEAR}|[a-z]\b)){{0,6}}"
_PARTICLE = r"(?:de|del|della|der|den|di|da|dos|du|la|le|el|al|van|von|ter|ten|zur|zum|y|e|bin|ibn)\b"
_CAPITAL = r"A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĢĪİĶŁĻĽŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŹŻŽ"
_NAME = rf"(?:[dO]['’])?[{_CAPITAL}][\w'’.‐-]{{0,30}}+(?:(?<=[à-ÿ])\s[a-z][\w-]{{1,20}}+)?(?:\s-[A-Z]\w{{1,20}}+)?"
_JOIN = r"(?:et\.?\s?al\b[.,;]{0,3}|and\s(?:others|colleagues)|and\b|&|,)"
_NAMES = rf"(?:{_PARTICLE}\s?){{0,3}}{_NAME}(?:[\s,]{{0,3}}(?:{_JOIN}|{_PARTICLE}|{_NAME})){{0,16}}+"
_WORK = rf"{_NAMES}[\s,.]{{0,4}}\(?{_YEARS}\)?"
CITED = rf"(?:{MARK}|{_WORK})"
_LEAD = (
    r"(?i:e\.?\s?g\b\.?|i\.?\s?e\b\.?|see(?:\s(?:also|e\.g\.))?|cf\b\.?|also|but|and|or|in|by|from|as|for(?:\sa)?|"
    r"(?:recent|extensive|some|other|more)(?:ly)?|reviews?|review(?:ed)?\s(?:in|by|elsewhere)|reviewed|examples?|"
    r"instance|details|ref(?:erence)?s?\b\.?|"
    r"(?:data|adapted|modified|taken|reproduced)\sfrom|(?:as\s)?(?:described|shown|reported|discussed|proposed)\s(?:in|by)|based\son)"
    r"(?![\w-])"
)
_TAIL = (
    r"(?i:for\s(?:an?\s|further\s|more\s|recent\s|detailed\s)?(?:reviews?|details|examples?|discussions?|information)|"
    r"(?:and\s)?(?:the\s)?references\stherein|reviews?|unpublished(?:\s(?:results|data|observations?))?|in\spress|and\sothers|among\sothers|etc\.?|"
    r"(?:pp?|pages?|ch|chap|sec|section|example|theorem|lemma|fig|figure|table|eq)\b\.?\s?[\w.–-]{1,9}|:\s?\d[\d–-]{0,9})"
)
_GAP = r"[\s,;:]{0,4}"
_SEPARATOR = r"(?:[\s,;:&/–-]|\band\b|\bor\b){0,6}"
SEGMENT = re.compile(
    rf"{_GAP}(?:{_LEAD}{_GAP}){{0,6}}(?:\d{{1,3}}\s?[,–-]?\s?){{0,9}}{CITED}(?:{_SEPARATOR}(?:{_LEAD}{_GAP}){{0,3}}(?:{CITED}|\d{{1,4}}[a-z]?\b)){{0,60}}"
    rf"{_GAP}(?:{_TAIL}{_GAP}){{0,3}}\.?\s?"
)
"""A part of a bracket, between semicolons, that consists of citations and of words that only introduce them."""
_NO_AUTHOR = re.compile(
    r"\b(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?|"
    r"Nov(?:ember)?|Dec(?:ember)?|Spring|Summer|Autumn|Fall|Winter|Figs?|Figures?|Tables?|Version|Copyright|Inc|Ltd|"
    r"GmbH|Corp|USA|UK|China|Germany|Japan|France|Sweden|Software|Release|Day|Week|Year|Since|From|Between|In|Until)\b"
)
_NUMBERS = r"\d{1,3}(?:\s?[,;–—‐-]\s?\d{1,3}){0,60}"
_SQUARE = re.compile(rf"\[\s?({_NUMBERS})\s?[,;]?\s?\]")
_ROUND = re.compile(rf"\(\s?({_NUMBERS})\s?\)")
_RAISED = re.compile(rf"\.\s?({_NUMBERS})(?=\s[A-Z]|\s?$)", re.MULTILINE)
_BEFORE_ROUND = re.compile(
    r"(?:^|\w|[:;=]\s?|\b(?:eqs?\.?|equations?|steps?|groups?|types?|or|n|no\.)\s)$", re.IGNORECASE
)
_ADJACENT = re.compile(r"\(\d{1,3}\) ?(?=\(\d{1,3}\))")
_LISTS, _HIGHEST = 3, 10
_COVERED, _FEWEST = 0.6, 5
"""See `numbers_in_round_brackets`."""
# Two patterns: what begins with one certain character is searched for several times as fast.
_BRACKETS = [re.compile(rf"{opened}([^()\[\]\n]{{4,1500}})[)\]]") for opened in (r"\(", r"\[")]
_WITH_YEAR = re.compile(_YEAR)
_BEFORE_INTERVAL = re.compile(
    r"(?:\b(?:CIs?|IQR|intervals?|ranges?|ranging|median|mean|between)\b|[=∈×])[\s:,=(]{0,3}$", re.I
)
_INTO_SENTENCE = re.compile(
    r"(?:^|[\s(])(?:in|of|by|to|from|with|at|on|than|following|per|under|see|refs?\.?|references?|like|via|unlike)\s"
    r"(?:\[[\d\s,–-]{1,20}\][\s,]{0,2}(?:and|or)?\s?){0,4}$",
    re.IGNORECASE,
)
_OUT_OF_SENTENCE = re.compile(
    r"\s?(?:showed?|shown|shows|proposed?|proposes|reported|reports|found|demonstrated|described|describes|considered|"
    r"considers|used|suggested|introduced|presented|studied|developed|investigated)\s"
)
_SENTENCE_BEGINS = re.compile(r"(?:^|(?<!al)[.!?]\s|\b[A-Z]\w{1,15}(?:\s\w{1,15})?,\s)$")
_CONTEXT = 60
"""Characters before a citation that are looked at."""


def is_textual(text: str, start: int, end: int) -> bool:
    """Whether the bracketed citation `text[start:end]` is a noun of its sentence: "as in [3]", "[3] showed that"."""
    before = text[max(0, start - _CONTEXT) : start].rpartition("\n")[2]
    if _INTO_SENTENCE.search(before):
        # "(see [22] for details)" and "(reviewed in [3])" stand in a bracket that goes as a whole.
        opened = before.rfind("(")
        return opened < 0 or ")" in before[opened:]
    return bool(_OUT_OF_SENTENCE.match(text, end)) and bool(_SENTENCE_BEGINS.search(before))


def mark_unmarked(text: str, counts: Counter[str]) -> str:
    """Put a `MARK` in place of the parenthetical citations that no span marks: "[12]", "(Roe et al., 2010)"."""
    marks = text.count(MARK)
    marked = text
    if "[" in text:
        marked = _SQUARE.sub(_numbered(text), marked)
    if text.count("(") >= _LISTS and numbers_in_round_brackets(text):
        marked = _ROUND.sub(_numbered_round, marked)
    elif text.count(".") >= _HIGHEST and numbers_after_points(text):
        marked = _RAISED.sub(_numbered_raised, marked)
    for pattern in _BRACKETS:
        marked = pattern.sub(_authored, marked)
    # What a mark takes goes with it and is counted there.
    counts["characters: unmarked citations"] += marked.count(MARK) - marks
    counts["citations: unmarked, removed"] += marked.count(MARK) - marks
    return credit(text, marked, "unmarked citations", counts)


def numbers_in_round_brackets(text: str) -> bool:
    """Whether a paper cites as in "(12, 13)", where others number equations and lists.

    Citations are given in lists (three at least), go beyond 10, and most numbers up to the highest one occur.
    """
    groups = _ROUND.findall(text)
    if len(groups) < _LISTS:
        return False
    lists = sum("," in group for group in groups) + len(_ADJACENT.findall(text))
    if len(_SQUARE.findall(text)) > len(groups) // 4:
        return False
    return (lists >= _LISTS and _are_of_a_bibliography(groups)) or (lists > 0 and _are_in_order(groups))


def numbers_after_points(text: str) -> bool:
    """Whether a paper cites by raised numbers, which parsers put behind the full stop: "as seen before. 12, 13 Then"."""
    groups = [found[1] for found in _RAISED.finditer(text) if _is_raised(found)]
    return len(groups) >= _HIGHEST and len(_SQUARE.findall(text)) <= len(groups) // 4 and _are_of_a_bibliography(groups)


def _numbered_raised(found: re.Match[str]) -> str:
    return f".{MARK}" if _is_raised(found) else found[0]


def _is_raised(found: re.Match[str]) -> bool:
    # Looked at after the search: a pattern that begins with a letter of any kind is tried at every letter.
    before = found.string[found.start() - 1 : found.start()]
    return before.islower() or before in (")", "]")


def _are_in_order(groups: list[str]) -> bool:
    """Whether numbers occur for the first time one after the other, as in a short paper with a short bibliography."""
    first = list(dict.fromkeys(int(number) for group in groups for number in re.findall(r"\d+", group)))
    return len(first) >= _FEWEST and first == list(range(1, len(first) + 1))


def _are_of_a_bibliography(groups: list[str]) -> bool:
    numbers = {int(number) for group in groups for number in re.findall(r"\d+", group)} - {0}
    return max(numbers, default=0) >= _HIGHEST and len(numbers) >= _COVERED * max(numbers)


def _numbered_round(found: re.Match[str]) -> str:
    before = found.string[max(0, found.start() - _CONTEXT) : found.start()].rpartition("\n")[2]
    return found[0] if _BEFORE_ROUND.search(before) else f"({MARK})"


def _numbered(text: str) -> Callable[[re.Match[str]], str]:
    def replaced(found: re.Match[str]) -> str:
        start, end = found.span()
        # "pyrazolo[3]pyridine" is a name, "[0, 1]" an interval.
        inside_word = text[start - 1 : start].isalpha() and (
            text[end : end + 1].isalpha() or text[end : end + 1] == "-"
        )
        numbers = [int(number) for number in re.findall(r"\d+", found[1])]
        before = text[max(0, start - _CONTEXT) : start]
        interval = 0 in numbers or (len(numbers) == 2 and _BEFORE_INTERVAL.search(before))
        if inside_word or interval or is_textual(text, start, end):
            return found[0]
        return f"[{MARK}]"

    return replaced


def _authored(found: re.Match[str]) -> str:
    if not _WITH_YEAR.search(found[1]):
        return found[0]
    segments = found[1].split(";")
    marked = [MARK if _is_cited(segment) else segment for segment in segments]
    if marked == segments:
        return found[0]
    return f"{found[0][0]}{';'.join(marked)}{found[0][-1]}"


def _is_cited(segment: str) -> bool:
    if MARK in segment or not SEGMENT.fullmatch(segment):
        return False
    # "(May et al., 2011)" is one, "(May 2011)" a date.
    return "et al" in segment or not _NO_AUTHOR.search(segment)
