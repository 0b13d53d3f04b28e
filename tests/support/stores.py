"""Small real token stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from megabiomed.data.store import TokenStore
from megabiomed.data.store_writer import TokenStoreWriter


def make_store(
    path: Path, tokenizer: Path, lengths: list[int], seed: int = 0, more: Callable[[int], dict[str, Any]] = lambda _: {}
) -> TokenStore:
    """Documents of random tokens; `more` is what else is known of each, by its number."""
    rng = np.random.default_rng(seed)
    with TokenStoreWriter(path, tokenizer, 300) as writer:
        for number, length in enumerate(lengths):
            writer.add(rng.integers(3, 300, length), {"paper_id": f"p{number}", "line": number, **more(number)})
    return TokenStore.open(path)
