"""The pieces of a JATS article: sections, paragraphs, lists, figures, tables, references, and what stands after the text."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from megabiomed.corpus.back_matter import ACKNOWLEDGEMENTS, kind_of_section
from megabiomed.corpus.compose import Composer, Inline
from megabiomed.corpus.jats_inline import FORMULAS, inline, inline_element

_UNREAD = frozenset(
    {"supplementary-material", "media", "glossary", "bio", "sec-meta", "title", "label", "fn", "table-wrap-foot"}
)
_GROUPS = frozenset({"fig-group", "table-wrap-group", "floats-group", "app-group", "body", "back", "fn-group"})
_PARAGRAPH = "paragraph"


class Sections:
    """Appends the pieces of an article to a composer, in the order in which they stand."""

    def __init__(self, composer: Composer) -> None:
        self._composer = composer

    def read(self, element: Element | None, kind: str = _PARAGRAPH) -> None:
        """Append what is in a body, back, section or group.

        Args:
            kind: of its paragraphs: "paragraph", or a kind of back matter, which its headers then have, too.
        """
        for child in element if element is not None else ():
            self._element(child, kind)

    def abstract(self, element: Element) -> None:
        """Append an abstract; the title of a part of it begins the paragraph, as in MEDLINE: "Methods: We slept."."""
        parts = element.findall("sec") or [element]
        for part in parts:
            label = text_of(part.find("title")).rstrip(" :.") if part is not element else ""
            for paragraph in part.iter("p"):
                held = Inline()
                if label:
                    held.add(f"{label}: ")
                    label = ""
                self._add(inline(paragraph, held), "abstract")

    def _element(self, child: Element, kind: str) -> None:
        tag = child.tag
        if child.get("sec-type") == "supplementary-material":
            return
        if tag in _UNREAD and not (tag == "fn" and kind_of_section(child.get("fn-type"), "")):
            return
        if tag == "ref-list":
            self._references(child)
        elif tag in ("fig", "table-wrap"):
            self._float(child, "figure" if tag == "fig" else "table")
        elif tag in ("list", "def-list"):
            self._list(child, kind)
        elif tag in _GROUPS:
            self.read(child, kind)
        elif tag in ("sec", "app", "ack", "notes", "fn", "boxed-text", "statement", "disp-quote", "verse-group"):
            self._section(child, kind)
        else:  # p, disp-formula, and what publishers put there beside the standard
            self._paragraph(child, kind)

    def _section(self, section: Element, kind: str) -> None:
        title = text_of(section.find("title")) or text_of(section.find("caption/title"))
        markup = section.get("sec-type") or section.get("notes-type") or section.get("fn-type")
        if kind == _PARAGRAPH:
            kind = ACKNOWLEDGEMENTS if section.tag == "ack" else kind_of_section(markup, title)
            kind = kind or _PARAGRAPH
        self._composer.append(title, "sectionheader" if kind == _PARAGRAPH else kind)
        self.read(section, kind)

    def _paragraph(self, element: Element, kind: str) -> None:
        """A paragraph, with the figures, tables and lists that stand in it after the text before them."""
        held = Inline()

        def block(inner: Element) -> None:
            self._add(held, kind)
            self._element(inner, kind)

        if element.tag in FORMULAS:
            inline_element(element, held)
        else:
            inline(element, held, block)
        self._add(held, kind)

    def _list(self, element: Element, kind: str) -> None:
        for item in element:
            if item.tag == "def-item":
                text = ": ".join(part for part in (text_of(item.find("term")), text_of(item.find("def"))) if part)
                self._composer.append(text, kind)
            elif item.tag == "list-item":
                self.read(item, kind)

    def _float(self, element: Element, kind: str) -> None:
        lines = [" ".join(part for part in (text_of(element.find("label")), text_of(element.find("caption"))) if part)]
        for row in element.iter("tr"):
            lines.append(" | ".join(text_of(cell) for cell in row if cell.tag in ("td", "th")))
        lines += [text_of(foot) for foot in element.findall("table-wrap-foot")]
        self._composer.append("\n".join(line for line in lines if line.strip(" |")), kind)

    def _references(self, element: Element) -> None:
        self._composer.append(text_of(element.find("title")), "sectionheader")
        for entry in element.iter("ref"):
            held = Inline()
            _entry(entry, held)
            text, marks = held.finish()
            self._composer.append(text, "bibentry", marks, {"id": entry.get("id", "")})

    def _add(self, held: Inline, kind: str) -> None:
        text, marks = held.finish()
        self._composer.append(text, kind, marks)


def text_of(element: Element | None) -> str:
    """All text of an element on one line; empty for none. Footnotes in it are left out."""
    if element is None:
        return ""
    held = Inline()
    _flat(element, held)
    return held.finish()[0]


def _flat(element: Element, into: Inline) -> None:
    into.add(element.text)
    for child in element:
        if child.tag in ("title", "p", "break"):
            into.add(" ")
        if child.tag not in ("fn", "graphic", "label") or element.tag == "label":
            _flat(child, into)
        if child.tag in ("title", "p"):
            into.add(" ")
        into.add(child.tail)


def _entry(element: Element, into: Inline) -> None:
    """A reference: publishers tag its parts without the punctuation between them, so a space separates them."""
    into.add(element.text)
    for child in element:
        into.add(" ")
        start = into.length
        _entry(child, into)
        if child.tag == "article-title":
            into.mark("bibtitle", start)
        elif child.tag == "surname":
            into.mark("bibauthorlastname", start)
        into.add(child.tail)
