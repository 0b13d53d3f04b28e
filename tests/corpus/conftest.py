"""What several tests of the corpus share."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest


@pytest.fixture
def damaged() -> Callable[[bytes, int], list[bytes]]:
    """Copies of a file that end early, or in which one byte is another one; the same ones in every run."""

    def make(data: bytes, count: int) -> list[bytes]:
        pick = random.Random(0)
        cut = [data[: pick.randrange(len(data))] for _ in range(count // 4)]
        places = [pick.randrange(len(data)) for _ in range(count - len(cut))]
        return cut + [data[:at] + bytes([pick.randrange(256)]) + data[at + 1 :] for at in places]

    return make
