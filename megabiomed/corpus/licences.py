"""One name for a licence, however a publisher or a file list spells it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

_LONGEST = 60
_URL = re.compile(r"creativecommons\.org/(?:licen[sc]es|publicdomain)/([a-z-]+)")
_CODE = re.compile(r"\bcc[\s-]*(0|by(?:[\s-]*(?:nc|nd|sa))*)(?![a-z])")
_NAMES = {"zero": "cc0", "mark": "public-domain", "pd": "public-domain", "publicdomain": "public-domain"}


def parse_licence(value: Any) -> str:
    """`cc-by`, `cc-by-nc-sa`, `cc0`, `public-domain`, or the publisher's own words in lower case; empty when there is none.

    Read are addresses at creativecommons.org ("https://creativecommons.org/licenses/by/4.0/"), the codes of PubMed
    Central's file lists ("CC BY-NC", "CC0") and those of Semantic Scholar ("CCBYNCND").
    """
    if not isinstance(value, str):
        return ""
    text = " ".join(value.lower().split())
    if found := _URL.search(text):
        return _NAMES.get(found[1], f"cc-{found[1]}")
    if found := _CODE.search(text):
        parts = re.findall(r"0|by|nc|nd|sa", found[1])
        return "cc0" if parts == ["0"] else "-".join(["cc", *parts])
    return _NAMES.get(text, text) if len(text) <= _LONGEST else ""


def kind_of_licence(name: str) -> str:
    """What reports count a paper under: Creative Commons licences and the public domain by name, "other", "unknown"."""
    if name.startswith("cc-") or name in ("cc0", "public-domain"):
        return name
    return "other" if name else "unknown"


@lru_cache
def licences_among(listed: str) -> frozenset[str]:
    """Names of several licences, separated by commas and spelled in any way that `parse_licence` reads."""
    return frozenset(name for each in listed.split(",") if (name := parse_licence(each)))
