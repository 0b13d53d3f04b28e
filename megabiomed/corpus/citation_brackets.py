"""Remove marks of citations together with the brackets, words and separators that stood there for them alone.

A parser's spans cover a bracket, half of it or none: "(Roe 2004; Doe 2005a )" has been seen as "(Roe 2004;" and "Doe 2005a".
So spans lose their outer brackets first, and brackets are judged by what is left in them: "(reviewed in MARK)" goes,
"(Fig. 1; MARK)" becomes "(Fig. 1)".
"""

from __future__ import annotations

import re
from collections import Counter

from megabiomed.corpus.citation_marks import MARK, SEGMENT, is_textual
from megabiomed.corpus.clean_text import credit
from megabiomed.corpus.records import Span

_EMPTY_BRACKETS = (re.compile(r"\([\s,;&–-]*\)"), re.compile(r"\[[\s,;&–-]*\]"))
_GROUP = re.compile(r"[(\[]([^()\[\]\n]{1,3000})[)\]]")
_RUN = re.compile(rf" ?{MARK}(?:(?:[\s,;&–-]|and\b){{0,6}}{MARK})*")
_ANY_BRACKET = re.compile(r"[()\[\]]")
_PAIRS = {")": "(", "]": "["}
_EDGES = " \t\n()[],;."
_NESTED = 4
"""Levels of brackets in each other that are looked at."""
_YEAR = re.compile(r"\b(?:1[89]|20)\d\d[a-z]?\b")
_FARTHEST = 400


def citation_core(text: str, span: Span) -> tuple[int, int]:
    """What a citation's mark stands for: its span without brackets and separators at the ends; (start, end).

    Empty (start == end) where the citation is a part of its sentence and stays.
    """
    piece = text[span.start : span.end]
    start = span.start + len(piece) - len(piece.lstrip(_EDGES))
    # A bracket that was opened inside the piece, as in "Roe (2000)", is closed inside.
    end = max(start, span.end - len(piece) + len(piece.rstrip(_EDGES)))
    named = _YEAR.search(piece) and piece[:1].isalpha() and not _YEAR.fullmatch(piece.strip(_EDGES))
    if named and not _is_inside_bracket(text, span.start):
        return start, start
    # Of a name in brackets nothing is lost; "as defined in (1)" would end in the air.
    numbered = piece[:1] == "[" or (piece[:1] == "(" and piece.strip(_EDGES).isdigit())
    if numbered and is_textual(text, span.start, span.end):
        return start, start
    opened, closed = text[start - 1 : start], text[end : end + 1]
    if opened == "[" and closed == "]" and is_textual(text, start - 1, end + 1):
        return start, start
    return start, end


def remove_marks(text: str, counts: Counter[str]) -> str:
    """Remove all marks, what stood for them alone, brackets that are empty, and the space that this leaves before a point."""
    marks = text.count(MARK)
    kept = text
    if marks:
        kept = "\n".join([_without_marks(line) if MARK in line else line for line in text.split("\n")])
    # A mark is no character of the paper.
    counts["characters: brackets and gaps left by citations"] -= marks
    return credit(text, _without_empty(kept), "brackets and gaps left by citations", counts)


def _without_marks(line: str) -> str:
    line = line.replace(f"[{MARK}]", MARK).replace(f"({MARK})", MARK)  # nearly all of them
    for _ in range(_NESTED):
        reduced = _GROUP.sub(_reduced, line)
        if reduced == line:
            break
        line = reduced
    return _RUN.sub(_gap, _without_unpaired(line))


def _reduced(group: re.Match[str]) -> str:
    """A bracket with citations: one mark, or the bracket with what is no citation."""
    if MARK not in group[1]:
        return group[0]
    kept = [segment.strip() for segment in group[1].split(";") if segment.strip() and not SEGMENT.fullmatch(segment)]
    if not kept:
        return MARK
    # Of a segment with words of its own only the citation goes.
    inner = "; ".join(_RUN.sub(_gap, segment).strip(" ,;") for segment in kept)
    return f"{group[0][0]}{inner}{group[0][-1]}" if inner else MARK


def _gap(run: re.Match[str]) -> str:
    following = run.string[run.end() : run.end() + 1]
    return "" if following in ("", " ", ".", ",", ";", ":", ")", "]") or not run[0].startswith(" ") else " "


def _without_unpaired(line: str) -> str:
    """Drop brackets next to a mark that nothing opens or closes, because a span had the other one."""
    opened: list[int] = []
    unpaired = []
    for found in _ANY_BRACKET.finditer(line):
        place, character = found.start(), found[0]
        if character in "([":
            opened.append(place)
        elif character in ")]":
            if opened and line[opened[-1]] == _PAIRS[character]:
                opened.pop()
            else:
                unpaired.append(place)
    for place in sorted([*opened, *unpaired], reverse=True):
        after, before = line[place + 1 : place + 9].lstrip(" ,;"), line[max(0, place - 8) : place].rstrip(" ,;")
        if after.startswith(MARK) if line[place] in "([" else before.endswith(MARK):
            line = line[:place] + line[place + 1 :]
    return line


def _without_empty(text: str) -> str:
    pieces, start = [], 0
    found = [bracket for pattern in _EMPTY_BRACKETS for bracket in pattern.finditer(text)]
    for bracket in sorted(found, key=lambda bracket: bracket.start()):
        # The space before it goes too: a full stop may follow.
        space = bracket.start() > start and text[bracket.start() - 1] == " "
        pieces.append(text[start : bracket.start() - space])
        start = bracket.end()
    return _without_space_before_points("".join([*pieces, text[start:]]) if pieces else text)


def _without_space_before_points(text: str) -> str:
    """Remove spaces between a word and a point, comma or semicolon that white space follows."""
    gaps = []
    for mark in (" .", " ,", " ;"):
        place = text.find(mark)
        while place >= 0:
            start = place
            while text[start - 1 : start] == " ":
                start -= 1
            before, after = text[start - 1 : start], text[place + 2 : place + 3]
            if before and not before.isspace() and (not after or after.isspace()):
                gaps.append((start, place + 1))
            place = text.find(mark, place + 2)
    if not gaps:
        return text
    edges = [0, *(edge for gap in sorted(gaps) for edge in gap), len(text)]
    return "".join([text[start:end] for start, end in zip(edges[::2], edges[1::2])])


def _is_inside_bracket(text: str, place: int) -> bool:
    before = text[max(0, place - _FARTHEST) : place].rpartition("\n")[2]
    return before.count("(") > before.count(")") or before.count("[") > before.count("]")
