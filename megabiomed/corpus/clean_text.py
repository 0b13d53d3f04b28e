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
    # A paper has a few hundred different characters and a hundred thousand places: look at each character once.
    for character in set(text) - _WANTED:
        if _is_unwanted(character):
            kept = kept.replace(character, "")
        else:
            _WANTED.add(character)  # at most all of Unicode: a few hundred in most corpora
    return unicodedata.normalize("NFC", credit(text, kept, "control characters", counts))


def collapse_whitespace(text: str, counts: Counter[str]) -> str:
    """One space within a line, no space at its ends, at most one blank line."""
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return credit(text, re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip(), "whitespace", counts)


def in_lines_with(marks: Sequence[str], pattern: re.Pattern[str], text: str) -> str:
    """Remove what a pattern matches within lines. Only lines that contain a mark are searched: the search is what costs."""
    if not any(mark in text for mark in marks):
        return text
    lines = text.split("\n")
    return "\n".join([pattern.sub("", line) if any(mark in line for mark in marks) else line for line in lines])


def credit(before: str, after: str, name: str, counts: Counter[str]) -> str:
    """Count what a rule removed under its name; returns `after`."""
    counts[f"characters: {name}"] += len(before) - len(after)
    return after


def _is_unwanted(character: str) -> bool:
    # U+FFFD: what an earlier program could not decode.
    return unicodedata.category(character) in _DROPPED_CATEGORIES or character == "\ufffd"
