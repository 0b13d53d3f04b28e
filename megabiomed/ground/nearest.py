"""The name that somebody most likely meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, options: Iterable[str]) -> str | None:
    """The option most like `name`, or None when nothing is similar."""
    # A low cutoff: a wrong hint costs the reader nothing, a missing one costs a search in the documentation.
    matches = difflib.get_close_matches(name, list(options), n=1, cutoff=0.5)
    return matches[0] if matches else None
