"""Values of fields as texts: what is missing, and what is no text, is refused and never spelt out as 'None' or 'nan'."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from megabiomed.samples.rejects import Unusable

_SPELT_MISSING = {"", "nan", "NaN", "<NA>"}
"""As pandas spells a missing value in a file. `None` and `null` may be answers."""


def is_missing(value: Any) -> bool:
    """Whether a field holds nothing: null, NaN (also as pandas spells it), an empty text or list, a list of such values."""
    if isinstance(value, str):
        return value.strip() in _SPELT_MISSING
    if isinstance(value, list | tuple):
        return all(map(is_missing, value))
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any, name: str) -> str:
    """The text of a field as it stands; a finite number is spelt.

    Raises:
        Unusable: the field is missing, or holds a list, an object, a truth value or an infinite number.
    """
    if is_missing(value):
        raise Unusable(f"no {name}", value)
    if isinstance(value, str):
        return value
    infinite = isinstance(value, float) and math.isinf(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or infinite:
        raise Unusable(f"{name} is not text", value)
    return str(value)


def optional_text(value: Any, name: str) -> str:
    """As `text_of`; "" where the field is missing."""
    return "" if is_missing(value) else text_of(value, name)


def texts_of(value: Any, name: str) -> list[str]:
    """The texts of a field that holds one or a list; none where it is missing.

    Raises:
        Unusable: as `text_of`, for any item of the list.
    """
    if is_missing(value):
        return []
    return [text_of(item, name) for item in value] if isinstance(value, list) else [text_of(value, name)]


def label_of(value: Any) -> str:
    """A text or number that only names or groups a record (an id, a subject); "" for anything else."""
    try:
        return text_of(value, "label")
    except Unusable:
        return ""


def require_valid(texts: Iterable[str]) -> None:
    """Refuse texts that no tokenizer takes.

    Raises:
        Unusable: bytes that were not UTF-8, or half of a surrogate pair, which JSON can hold.
    """
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        raise Unusable("no valid text", error) from None
