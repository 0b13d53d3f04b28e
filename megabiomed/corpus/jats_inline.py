"""The running text of a JATS element, with citations, mentions and formulas marked in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from xml.etree.ElementTree import Element

from megabiomed.corpus.compose import Inline

BLOCKS = frozenset({
    "fig", "fig-group", "table-wrap", "table-wrap-group", "list", "def-list", "boxed-text", "disp-quote", "verse-group",
    "supplementary-material", "media", "statement", "p", "sec",
})  # fmt: skip
"""Elements that may stand in a paragraph and are pieces of their own."""
_UNREAD = frozenset(
    {"fn", "graphic", "inline-graphic", "object-id", "processing-meta", "inline-supplementary-material"}
)
_REFERENCES = {"bibr": "bibref", "fig": "figureref", "table": "tableref"}
FORMULAS = {"disp-formula": "formula", "disp-formula-group": "formula", "inline-formula": "", "math": ""}
"""Elements with a formula, and the annotation of those that stand on a line of their own."""
_SEPARATORS = re.compile(r"[\s,;&–—-]*")
_LATEX = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_POWER = re.compile(r"[+−–-]?[0-9]{1,4}")


def inline(element: Element, into: Inline, blocks: Callable[[Element], None] | None = None) -> Inline:
    """Append the text of an element, without the tail after it.

    Args:
        blocks: called with each of `BLOCKS` inside; without it their text is passed over.
    """
    into.add(element.text)
    for child in element:
        inline_element(child, into, blocks)
        into.add(child.tail)
    return into


def inline_element(child: Element, into: Inline, blocks: Callable[[Element], None] | None = None) -> None:
    """Append one element as it stands in running text, and mark it."""
    start, tag = into.length, child.tag
    if not isinstance(tag, str) or tag in _UNREAD:
        return
    if tag in BLOCKS:
        if blocks is not None:
            blocks(child)
    elif tag in FORMULAS:
        into.add(formula_text(child))
        if kind := FORMULAS[tag]:
            into.mark(kind, start)
    elif tag == "break":
        into.add(" ")
    elif tag == "xref":
        inline(child, into, blocks)
        if kind := _REFERENCES.get(child.get("ref-type", ""), ""):
            into.mark(kind, start, ref_id=child.get("rid", "").partition(" ")[0])
    elif tag == "sup":
        _raised(child, into)
    else:
        inline(child, into, blocks)


def _raised(element: Element, into: Inline) -> None:
    """Raised text: one citation when nothing but separators stands between the numbers in it; a power of a number gets a ^."""
    cited = [xref for xref in element.iter("xref") if xref.get("ref-type") == "bibr"]
    start, text = into.length, "".join(element.itertext())
    if not cited and into.last.isdigit() and _POWER.fullmatch(text.strip()):
        into.add("^")
    inline(element, into)
    if cited and _SEPARATORS.fullmatch("".join(_outside(element, cited))):
        into.mark("bibref", start, ref_id=cited[0].get("rid", "").partition(" ")[0])


def _outside(element: Element, inner: list[Element]) -> Iterator[str]:
    """The text of an element that is in none of some elements in it."""
    yield element.text or ""
    for child in element:
        if child not in inner:
            yield from _outside(child, inner)
        yield child.tail or ""


def formula_text(element: Element) -> str:
    """A formula as LaTeX where the publisher gives it, else the symbols of its MathML or text, separated by spaces."""
    for name in ("tex-math", "annotation"):
        for found in element.iter(name):
            if name == "annotation" and "tex" not in found.get("encoding", "").lower():
                continue
            text = "".join(found.itertext())
            held = _LATEX.search(text)
            if text.strip():
                return " " + (held[1] if held else text).strip().strip("$").strip() + " "
    # The label of a numbered formula stands beside it.
    parts = (part for child in element if child.tag not in ("label", "graphic") for part in child.itertext())
    return " " + " ".join(" ".join([element.text or "", *parts]).split()) + " "
