"""Back matter that no markup tells: sections known by their header, and sentences known by their phrases."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from megabiomed.corpus.back_matter import kind_of_section
from megabiomed.corpus.clean_text import credit
from megabiomed.corpus.intervals import Interval
from megabiomed.corpus.records import Paper

MAX_SECTION = 4000
"""Characters of a section of back matter. What is longer has lost the header of the section after it, and stays."""
_LONGEST_HEADER = 80
MAX_PARAGRAPH = 2500
"""Characters of a paragraph that phrases remove."""

_PIECE = r"(?:present |current )?(?:work|study|research|project|review|paper|manuscript|article|publication)"
_PEOPLE = r"(?:the )?(?:corresponding |first |senior |other |remaining )?authors?(?:\(s\))?"
# What such a paragraph begins with. Nothing of a paper's own text does: "We thank" is not "We think".
_PARAGRAPH = re.compile(
    r"(?:acknowledge?ments?\b|"
    r"(?:funding|financial (?:support|disclosures?)|(?:source of )?funding sources?|grant support|disclosures?)"
    r"(?: statement| information)?\s?[:.–-]|"
    rf"(?:authors?['’]?s?['’]? |credit authorship )?contributions?(?: statement)?\s?[:.–-]|"
    r"(?:declaration of |statement of )?(?:conflicts?|competing|conflicting|declaration)(?: of)?(?: financial)? interests?"
    r"(?: statement| disclosure)?\s?[:.–-]|"
    r"(?:we|i) (?:would (?:also )?like to |wish to |also |gratefully |sincerely |warmly |want to |are pleased to )*"
    r"(?:thank|acknowledge the (?:help|support|assistance|contribution)|express our (?:gratitude|thanks|appreciation))\b|"
    r"(?:we|i) (?:are|am) (?:very |most |deeply |also |extremely )?(?:grateful|indebted|thankful) (?:to|for)\b|"
    rf"{_PEOPLE} (?:(?:would (?:also )?like|wish|want) to |gratefully |sincerely |also )*(?:thank|acknowledge)\b|"
    rf"{_PEOPLE} (?:are|is) (?:very |deeply |most )?(?:grateful|indebted|thankful) (?:to|for)\b|"
    rf"(?:the first author of )?(?:this|the|our) {_PIECE} (?:(?:was|is|has been|were) )?"
    r"(?:(?:also|partially|partly|financially|in part|jointly|kindly|generously) )*"
    r"(?:supported|funded|financed|received (?:a scholarship|funding|no (?:specific |external )?(?:funding|grant)))\b|"
    rf"{_PEOPLE} (?:has|have) no (?:other )?relevant affiliations\b|"
    r"the contributions? of [^.]{3,160} (?:was|were) (?:supported|funded)\b|"
    r"no writing assistance was|papers of special note have been highlighted|none declared\.?$|"
    r"(?:financial )?support (?:for|of) (?:this|the|our) (?:work|study|research) (?:was|were|came)\b|"
    r"author \w{1,4} (?:conceived|designed|wrote|drafted|contributed|performed)\b|"
    r"(?:all|both) (?:the )?authors (?:have )?(?:contributed|participated|read|approved|critically|reviewed|wrote|edited)\b|"
    r"conceived and designed (?:the )?(?:experiments?|study)|"
    r"[A-Z]{2,4}(?:(?:,| and|, and) [A-Z]{2,4})* (?:conceived|designed|wrote|drafted|contributed|performed|reviewed)\b.{0,80}"
    r"(?:study|manuscript|experiments?|paper|analys[ei]s|draft))",
    re.IGNORECASE,
)
_LONG_WORDS = (
    "ackno", "fundi", "finan", "sourc", "grant", "discl", "autho", "credi", "contr", "decla", "state", "confl", "compe",
    "corre", "first", "senio", "other", "remai", "paper", "suppo", "conce",
)  # fmt: skip
"""How the words begin that have five letters or more and begin an alternative of `_PARAGRAPH`."""
_SENTENCE = re.compile(
    rf"(?:{_PEOPLE}|we|th?e authors?|e authors?) (?:(?:hereby|also) )?"
    r"(?:declare|report|state|confirm|disclose|certify|have|has)s?d?\b[^.]{0,120}\b(?:conflicts?|competing|conflicting|financial)\b[^.]{0,60}\binterests?\b|"
    r"(?:there (?:are|is) )?(?:no|none of the authors (?:has|have|had|declare)) (?:any )?(?:potential |known |relevant )?"
    r"(?:conflicts?|competing|conflicting)(?: of)?(?: financial)? interests?\b|"
    r"[^.]{0,160}\b(?:other|remaining) authors (?:report|declare|have) no (?:conflicts?|competing)",
    re.IGNORECASE,
)
_HEADER_WORD = re.compile(
    r"acknowledge?ments?|authors?'?s?'?|authorship|credit|contributions?|contributors|conflicts?|competing|conflicting|of|"
    r"interests?|declarations?|disclosures?|statements?|funding|financial|support|sources?|grant|information|role|the|"
    r"potential|and|by|for|no|to|&"
)
_HEADER_NUMBER = re.compile(r"^[\divx]+(?:\.\d+)*\.?\s+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True)
class BackMatterRules:
    """Rules for back matter that the markup does not tell."""

    back_matter_headers: bool = True
    """Remove sections whose header names acknowledgements, contributions, conflicts of interest or funding."""
    back_matter_phrases: bool = True
    """Remove paragraphs that begin as such a section does ("We thank"), and sentences that declare interests."""


def back_matter_sections(paper: Paper) -> list[Interval]:
    """Sections of back matter, with their headers, up to the next header or the end."""
    headers = paper.spans.get("sectionheader", [])
    ends = [*(header.start for header in headers[1:]), len(paper.text)]
    found = []
    for header, end in zip(headers, ends):
        if _is_header(paper.text[header.start : header.end]):
            # Of a section that is too long to be one only the header is sure.
            found.append((header.start, end if end - header.end <= MAX_SECTION else header.end))
    return found


def remove_back_matter(text: str, rules: BackMatterRules, counts: Counter[str]) -> str:
    """Remove lines of back matter: a header with the paragraph below it, and paragraphs and sentences by their phrases."""
    lines = text.split("\n")
    if rules.back_matter_headers:
        lines = _without_sections(lines)
        text = credit(text, "\n".join(lines), "back_matter_headers", counts)
    if rules.back_matter_phrases:
        text = credit(text, "\n".join([_without_phrases(line) for line in lines]), "back_matter_phrases", counts)
    return text


def _is_header(line: str) -> bool:
    """Whether a line names a section of back matter and nothing more: "Conflicts of interest in trials" is a title."""
    if not 4 < len(line) <= _LONGEST_HEADER:
        return False
    text = line.strip().lower().replace("’", "'")
    # The words first: the last one settles it for most lines, at a hundredth of what the kinds cost.
    words = text.strip(" .:").replace("/", " ").split()
    if words and not _is_header_word(words[-1]):
        return False
    words = _HEADER_NUMBER.sub("", text).strip(" .:").replace("/", " ").split()
    return all(map(_is_header_word, words)) and bool(kind_of_section(None, line))


@lru_cache(maxsize=4096)
def _is_header_word(word: str) -> bool:
    return _HEADER_WORD.fullmatch(word) is not None


def _without_sections(lines: list[str]) -> list[str]:
    kept: list[str] = []
    inside = False
    for line in lines:
        if len(line) <= _LONGEST_HEADER and _is_header(line):
            inside = True
            continue
        if inside and line.strip():
            inside = False
            # In plain text nobody knows where the section ends: its first paragraph goes, the rest by its phrases.
            if len(line) <= MAX_PARAGRAPH:
                continue
        kept.append(line)
    return kept


def _may_begin(letters: str) -> bool:
    """Whether a line that begins with these five characters is worth the pattern, which costs more than all other rules."""
    return len(letters) < 5 or not (letters.isascii() and letters.isalpha()) or letters.lower() in _LONG_WORDS


def _without_phrases(line: str) -> str:
    begins = line.lstrip(" •*_")
    if len(line) <= MAX_PARAGRAPH and _may_begin(begins[:5]) and _PARAGRAPH.match(begins):
        return ""
    if "nterest" not in line:
        return line
    sentences = _SENTENCE_END.split(line)
    kept = [sentence for sentence in sentences if not _SENTENCE.match(sentence)]
    return line if len(kept) == len(sentences) else " ".join(kept)
