"""Which option a generated answer means. A letter inside an option's own text, as in "vitamin C", is not a choice."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_STATED = r"(?i:\b(?:answer|option|choice)(?:\s+is\b\s*:?|\s*:)\s*(?:the\s+)?(?:option\s+|choice\s+)?)[\"'`*_“”‘’]*"
_LEADS = r"(?=\s*(?:[).:,;]|\n|$))"
"""After a letter that begins an answer: "A patient ..." is no answer."""
_ENDS = r"(?=\s*(?:[).:,;!]|\n|$|\b(?:is|or|and|because|since|as|but)\b))"
"""After a letter that is stated: "the answer is C-reactive protein" names no letter."""
_ARTICLE = r"(?!(?<=A)\s+(?!(?:is|or|and|because|since|as|but)\b)[a-z])"
_CARRIER = re.compile(
    r"(?i:\b(?:vitamins?|hepatitis|proteins?|types?|groups?|factors?|class|grade|stage|phase|influenza|apo(?:lipoprotein)?|"
    r"troponin|immunoglobulin|coenzyme|fib(?:er|re)s?|streptococc\w+|cells?|haemophilus|chain|strain|antigen)|[°'\d])[\s-]*$"
)
"""Before a letter that belongs to a name: "hepatitis B", "60 °C"."""
_BARE = re.compile(r"[\s\"'`*(\[“”‘’]*(\w)[\s\"'`*)\].:,“”‘’]*")
"""An answer that is one letter and nothing else, in any quotes or brackets."""
_DETERMINER = re.compile(r"\s+(?!(?:is|or|and|because|since|as|but)\b)[a-z]")
"""After "no" inside a sentence: "no difference was seen" answers nothing."""
_MASK = "\N{OBJECT REPLACEMENT CHARACTER}"


def extract_option(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """The option that a generated answer means; None when it names none, or several at once.

    In this order: the text is an option's; it is a name alone; both again in any case; it is, or states, a name with the text
    of that option ("B. skin"); it states one ("the answer is B"); it begins with a name; a name is marked, as in "(B)" or
    "option B"; the only option whose text stands in it; the only name in it. Inside a text names of one letter are case
    sensitive where nothing marks them, and "A" before a noun is an article.

    Args:
        names: what the prompt calls the options: letters, or words like yes and no.
        options: their texts, in the same order.
    """
    same = [number for number, option in enumerate(options) if _plain(option) == _plain(text)]
    exact = [number for number in same if options[number].strip() == text.strip()]
    if len(exact) == 1:
        return exact[0]
    if not all(len(name) == 1 for name in names):
        return same[0] if len(same) == 1 else _by_words(text, names)
    bare = _BARE.fullmatch(unicodedata.normalize("NFKC", text))
    if bare is not None and bare.group(1) in names:
        return list(names).index(bare.group(1))
    if len(same) == 1:
        return same[0]
    lowered = [name.lower() for name in names]
    if bare is not None and bare.group(1).lower() in lowered:
        return lowered.index(bare.group(1).lower())
    for stated in (_with_its_text(text, names, options), _stated(text, names, options)):
        if stated is not None:
            return stated
    masked, told = _mask_options(text, options)
    return _first_sure(_marked(masked, names), told, _lone(masked, names))


def _first_sure(*found: set[int]) -> int | None:
    """The first set that is not empty decides, if it holds one option."""
    first = next((numbers for numbers in found if numbers), set())
    return next(iter(first)) if len(first) == 1 else None


def _plain(text: str) -> str:
    """A text without case, doubled spaces, quotes and a full stop at its end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip("\"'`*_“”‘’. ")


def _by_words(text: str, names: Sequence[str]) -> int | None:
    """Names that are words themselves (yes, no, maybe), in any case."""
    by_name = {name.lower(): number for number, name in enumerate(names)}
    name = _any_of(names)
    stated = re.search(rf"{_STATED}\(?{name}", text, re.IGNORECASE) or re.match(rf"\s*\(?{name}", text, re.IGNORECASE)
    if stated:
        return by_name[stated.group(1).lower()]
    inside = [found for found in re.finditer(name, text, re.IGNORECASE) if not _is_determiner(found)]
    return _first_sure({by_name[found.group(1).lower()] for found in inside})


def _is_determiner(found: re.Match[str]) -> bool:
    return found.group(1).lower() == "no" and _DETERMINER.match(found.string, found.end()) is not None


def _with_its_text(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """The option whose name and text begin the answer, or follow "the answer is": "C. bc" where bc is the text of C."""
    begins = [0, *(lead.end() for lead in re.finditer(_STATED, text))]
    for number, (name, option) in enumerate(zip(names, options)):
        both = re.compile(rf"[\W_]*{re.escape(name)}\W+{re.escape(option.strip())}(?!\w)", re.IGNORECASE)
        if option.strip() and any(both.match(text, begin) for begin in begins):
            return number
    return None


def _stated(text: str, names: Sequence[str], options: Sequence[str]) -> int | None:
    """The option after "the answer is": its text, the longest first, or its letter."""
    letters = "".join(map(re.escape, names))
    for lead in re.finditer(_STATED, text):
        rest = text[lead.end() :]
        # Where option B reads "c", "the answer is C" is the name of option C, and "the answer is c" the text of B.
        named = re.match(rf"[{letters}](?!\w)", rest) and not re.match(_any_of(options), rest)
        texts = re.match(_any_of([option.lower() for option in options]), rest.lower())
        if texts is not None and (not named or len(texts.group(1)) > 1):
            meant = {number for number, option in enumerate(options) if option.lower() == texts.group(1)}
            return next(iter(meant)) if len(meant) == 1 else None
        letter = re.match(rf"\(([{letters}])\)|([{letters}]){_ENDS}", rest, re.IGNORECASE)
        if letter is not None and (letter.group(1) or letter.group(2) in names):
            return [name.lower() for name in names].index((letter.group(1) or letter.group(2)).lower())
    return None


def _mask_options(text: str, options: Sequence[str]) -> tuple[str, set[int]]:
    """The text with every option's text in it replaced by one sign, and the options that were found.

    An option of one letter is not looked for: inside a sentence it cannot be told from a name.
    """
    longer = [option.lower() for option in options if len(option.strip()) > 1]
    if not longer or len(text.lower()) != len(text):  # a letter that lower case makes longer would shift all places
        return text, set()
    pattern = re.compile(_any_of(longer))
    told = {found.group(1) for found in pattern.finditer(text.lower())}
    masked = text
    for found in pattern.finditer(text.lower()):
        masked = masked[: found.start()] + _MASK * (found.end() - found.start()) + masked[found.end() :]
    return masked, {number for number, option in enumerate(options) if option.lower() in told}


def _marked(text: str, names: Sequence[str]) -> set[int]:
    """Letters that stand as a choice: at the beginning, else in brackets or after "option"."""
    letters = "".join(map(re.escape, names))
    first = re.match(rf"\s*\(?([{letters}])(?!\w){_LEADS}", text)
    if first:
        return {list(names).index(first.group(1))}
    lowered = [name.lower() for name in names]
    marked = re.finditer(rf"\(([{letters}])\)|\b(?:option|choice)\s+([{letters}])(?!\w)", text, re.IGNORECASE)
    return {lowered.index((found.group(1) or found.group(2)).lower()) for found in marked}


def _lone(text: str, names: Sequence[str]) -> set[int]:
    """Letters by themselves that neither begin a noun phrase nor end a name."""
    found = re.finditer(_any_of(names) + _ARTICLE, text)
    return {list(names).index(one.group(1)) for one in found if not _CARRIER.search(text[: one.start()])}


def _any_of(texts: Sequence[str]) -> str:
    """A pattern of whole words, the longest first: "Ca++" is more than "Ca". A word may end with a sign, as "20%" does."""
    return rf"(?<!\w)({'|'.join(re.escape(text) for text in sorted(texts, key=len, reverse=True))})(?!\w)"
