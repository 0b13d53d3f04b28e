"""Sections that are no part of a paper's text: their kind, by the markup or by the header; cleaning removes them."""

from __future__ import annotations

import re

ACKNOWLEDGEMENTS = "acknowledgements"
CONTRIBUTIONS = "contributions"
CONFLICTS = "conflicts"
FUNDING = "funding"
KINDS = (ACKNOWLEDGEMENTS, CONTRIBUTIONS, CONFLICTS, FUNDING)

_MARKUP = {
    "coistatement": CONFLICTS, "conflict": CONFLICTS, "conflictofinterest": CONFLICTS, "competinginterests": CONFLICTS,
    "con": CONTRIBUTIONS, "authorcontributions": CONTRIBUTIONS, "authcont": CONTRIBUTIONS, "authcontrib": CONTRIBUTIONS,
    "contributors": CONTRIBUTIONS, "participatingresearchers": CONTRIBUTIONS,
    "ack": ACKNOWLEDGEMENTS, "acknowledgement": ACKNOWLEDGEMENTS, "acknowledgment": ACKNOWLEDGEMENTS,
    "acknowledgements": ACKNOWLEDGEMENTS, "acknowledgments": ACKNOWLEDGEMENTS, "ackfund": FUNDING,
    "financialdisclosure": FUNDING, "supportedby": FUNDING, "funding": FUNDING, "fundinginformation": FUNDING,
    "compint": CONFLICTS,
}  # fmt: skip
"""JATS's `fn-type` and `sec-type`, and BioC's section types, in lower case without separators."""
_HEADERS = (
    (CONFLICTS, r"(declaration|statement|disclosure)s? of (competing|conflict)"),
    (CONFLICTS, r"(conflicts?|competing|declaration) of interest|(competing|conflicting|financial) interests?"),
    (CONFLICTS, r"^disclosures?( statement)?$"),
    (CONTRIBUTIONS, r"^(authors?|authorship|credit)\b.*\b(contributions?|contributors?|statement)|^contributors$"),
    (CONTRIBUTIONS, r"^contribution of (the )?authors"),
    (
        FUNDING,
        r"^(source of )?(funding|financial (support|disclosure)|grant (support|information))|^role of the funding",
    ),
    (ACKNOWLEDGEMENTS, r"^acknowledge?ments?\b"),
)
_COMPILED = tuple((kind, re.compile(pattern)) for kind, pattern in _HEADERS)
_NUMBER = re.compile(r"^[\divx]+(\.\d+)*\.?\s+")
_POSSESSIVE = re.compile("['’]s|s['’]")
_LONGEST_HEADER = 80


def kind_of_section(markup: str | None, header: str) -> str:
    """One of `KINDS`, or empty for a section of the paper itself.

    Args:
        markup: the type that the markup gives the section, such as "COI-statement".
        header: its title; read when the markup does not tell.
    """
    plain = "".join(character for character in (markup or "").lower() if character.isalnum())
    if plain in _MARKUP:
        return _MARKUP[plain]
    text = _NUMBER.sub(
        "", " ".join(header.lower().replace("’", "'").replace("'s", "s").replace("s'", "s").split())
    ).strip(" .:")
    if not text or len(text) > _LONGEST_HEADER:
        return ""
    return next((kind for kind, pattern in _COMPILED if pattern.search(text)), "")
