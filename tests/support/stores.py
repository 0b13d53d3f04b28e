"""Small real token stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megabiomed.data.store import TokenStore, TokenStoreWriter


def make_store(path: Path, tokenizer: Path, lengths: list[int], seed: int = 0) -> TokenStore:
    rng = np.random.default_rng(seed)
    with TokenStoreWriter(path, tokenizer, 300) as writer:
        for number, length in enumerate(lengths):
            writer.add(rng.integers(3, 300, length), {"paper_id": f"p{number}", "line": number})
    return TokenStore.open(path)
