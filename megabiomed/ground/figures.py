"""Metrics that may be NaN or infinite are stored and shown as "not finite", so that nobody averages or ranks them."""

from __future__ import annotations

import math

NOT_FINITE = "not finite"
Figure = float | str
"""A finite number, or `NOT_FINITE`."""


def perplexity(loss: float) -> float:
    """exp of a mean loss in nats; infinite if that exceeds a double, NaN for NaN."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def stored(value: float) -> Figure:
    """The form in which JSON files store a metric: JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else NOT_FINITE


def shown(value: Figure, form: str) -> str:
    """Formatted for a reader, e.g. with form `.4f`."""
    return format(value, form) if isinstance(value, int | float) and math.isfinite(value) else NOT_FINITE
