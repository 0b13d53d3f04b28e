"""Bounds of command-line options that several commands have."""

from __future__ import annotations

import math

import typer

LARGEST_SEED = 2**63 - 1
"""Generators of numpy, Python and torch take every seed from 0 to this one."""


def finite(value: float) -> float:
    """The value of a typer option, if it is a finite number: `nan` passes every bound, and `inf` every lower one."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value
