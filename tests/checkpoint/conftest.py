"""Checkpoints of a model in memory, for tests of this room."""

from __future__ import annotations

from typing import Any

import pytest
from support import checkpoints


@pytest.fixture
def world() -> Any:
    """The helpers of support/checkpoints.py."""
    return checkpoints
