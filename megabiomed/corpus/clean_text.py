"""Cleaning rules that rewrite text: addresses, characters, white space. Each credits its name with what it removes."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# The repeats are bounded by RFC 5321 (64 characters before the @, 63 in a part of the domain): without bounds a line of
# a million letters without an address would be searched once from each of them.
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_URL = re.compile(r"(?:\b[a-z]{2,10}://|\bwww\.)[^\s<>\"]*[^\s<>\".,;:!?)\]]", re.IGNORECASE)
# What str.splitlines and editors take for line ends. One of them in a document would split it in a file of lines.
_LINE_END_CHARACTERS = "\r\v\f\x85\u2028\u2029"
_BLANK_LINES = re.compile(r"\n{3,}")
_LINE_ENDS = re.compile(f"\r\n|[{_LINE_END_CHARACTERS}]")
# Control, format (soft hyphen, zero width), surrogate, private use (what is left of a PDF's symbol fonts), unassigned.
_WANTED = {"\n", "\t"}
"""Characters that were looked at and stay."""
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})


def remove_emails(text: str, counts: Counter[str]) -> str:
    """Remove e-mail addresses, which also stand outside of author spans."""
    return credit(text, in_lines_with(("@",), _EMAIL, text), "emails", counts)


def remove_urls(text: str, counts: Counter[str]) -> str:
    """Remove web addresses."""
    return credit(text, in_lines_with(("://", "www."), _URL, text), "urls", counts)


def normalise_characters(text: str, counts: Counter[str]) -> str:
    """Unicode NFC; one kind of line end; no control, format (soft hyphen, zero width), surrogate or unassigned ones."""
    if any(end in text for end in _LINE_END_CHARACTERS):
        text = _LINE_ENDS.sub("\n", text)
    kept = text
    for character in _suspects(text) - _WANTED:
        if _is_unwanted(character):
            kept = kept.replace(character, "")
        else:
            _WANTED.add(character)  # a few dozen in most corpora
    return unicodedata.normalize("NFC", credit(text, kept, "control characters", counts))


def _suspects(text: str) -> set[str]:
    """All characters that may be unwanted: those of lines with a character of no glyph, and U+FFFD."""
    # What is printable to Python is in none of the categories, and asking for it costs a fifth of a set of characters.
    if text.replace("\n", "").isprintable():
        found = set()
    else:
        found = set().union(*(line for line in text.split("\n") if not line.isprintable()))
    return found | {"\ufffd"} if "\ufffd" in text else found


def collapse_whitespace(text: str, counts: Counter[str]) -> str:
    """One space within a line, no space at its ends, at most one blank line."""
    kept = "\n".join([line if _is_single_spaced(line) else " ".join(line.split()) for line in text.split("\n")])
    if "\n\n\n" in kept:
        kept = _BLANK_LINES.sub("\n\n", kept)
    return credit(text, kept.strip(), "whitespace", counts)


def _is_single_spaced(line: str) -> bool:
    # To Python no white space but the space is printable.
    return line.isprintable() and "  " not in line and line[:1] != " " and line[-1:] != " "


def in_lines_with(marks: Sequence[str], pattern: re.Pattern[str], text: str) -> str:
    """Remove what a pattern matches within lines. Only lines that contain a mark are searched: the search is what costs."""
    if not any(mark in text for mark in marks):
        return text
    lines = text.split("\n")
    for number, line in enumerate(lines):
        for mark in marks:
            if mark in line:
                lines[number] = pattern.sub("", line)
                break
    return "\n".join(lines)


def credit(before: str, after: str, name: str, counts: Counter[str]) -> str:
    """Count what a rule removed under its name; returns `after`."""
    counts[f"characters: {name}"] += len(before) - len(after)
    return after


def _is_unwanted(character: str) -> bool:
    # U+FFFD: what an earlier program could not decode.
    return unicodedata.category(character) in _DROPPED_CATEGORIES or character == "\ufffd"
