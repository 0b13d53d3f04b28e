"""What two records of one paper share: hashes of its ids and of its text, and the hash that decides its split."""

from __future__ import annotations

import hashlib
import re

import numpy as np

SHARED_IDS = {
    "pmc": re.compile(r"[0-9]{1,12}"),
    "pubmed": re.compile(r"[0-9]{1,12}"),
    "doi": re.compile(r"10\.[0-9]{4,9}/\S+"),
    "arxiv": re.compile(r"\S*[0-9]{4}\S*"),
}
"""External ids that name one paper each, and what they look like. What looks otherwise (placeholders) names no paper."""
KINDS = ("id", *SHARED_IDS, "text", "near")
"""What a paper can have in common with an earlier one, from the surest to the weakest: it is counted under the first."""
KEY = np.dtype([("split", "<u8"), ("tainted", "?"), ("abstract", "?")])
"""Of a document: `split_hash`, whether it contains evaluation questions, and whether it has only a title and an abstract."""


def split_hash(paper_id: str) -> int:
    """The 64-bit hash that decides the split of a paper; it depends on the paper's id alone."""
    return int.from_bytes(hashlib.blake2b(paper_id.encode(), digest_size=8).digest(), "big")


def held_out(paper_id: str, fraction: float) -> bool:
    """Whether a paper belongs to validation."""
    return split_hash(paper_id) < fraction * 2**64


def key_of(kind: str, text: str) -> tuple[int, int]:
    """A 128-bit hash; equal texts of one kind have equal keys, and others practically never."""
    # Among 10^9 different texts the chance that any two share a key is about 10^-21.
    return halves(text.encode("utf-8", "surrogatepass"), kind)


def halves(data: bytes, kind: str) -> tuple[int, int]:
    """The two halves of a 128-bit hash, another one for each kind."""
    digest = hashlib.blake2b(data, digest_size=16, person=kind.encode()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def shared_key(kind: str, value: str | None) -> tuple[int, int] | None:
    """The key of an external id however it is written; None when there is none."""
    name = (value or "").strip().lower().removeprefix("https://doi.org/").removeprefix("doi:")
    if not SHARED_IDS[kind].fullmatch(name):
        return None
    return key_of(kind, name.lstrip("0"))  # 0123 and 123 are the same paper


def text_key(text: str) -> tuple[int, int]:
    """The key of a cleaned text without regard to case and white space.

    Args:
        text: as `collapse_whitespace` leaves it, with single spaces and at most one blank line.
    """
    return key_of("text", text.lower().replace("\n\n", " ").replace("\n", " "))
