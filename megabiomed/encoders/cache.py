"""Rows of a frozen encoder on disk: an item that comes again is read and not encoded.

folder/<hash of the encoder and type>/<xx>/<hash of the item>.safetensors. A file appears under its name only when complete,
so that ranks and runs may share a folder; two that write the same item write the same content.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


class FeatureCache:
    """Rows of items under one set of weights.

    Args:
        weights: hash of the encoder and the type it computes in; another encoder never sees these files.
        limit: bytes of the whole folder beyond which nothing is added.
        share: part of what is left under the limit that this process may add (ranks do not count each other's files).
    """

    def __init__(self, folder: Path, weights: str, limit: float, share: float = 1.0) -> None:
        self.folder = folder / weights
        self.folder.mkdir(parents=True, exist_ok=True)
        # Counted once, at the start; `share` allows for what other ranks add meanwhile.
        present = sum(entry.stat().st_size for entry in folder.rglob("*.safetensors"))
        self.room = max(0.0, limit - present) * share
        self.hits = self.misses = 0

    def read(self, item: bytes) -> Tensor | None:
        """Rows [n, w] of an item, or None; a damaged file counts as absent and is written again."""
        path = self._path(item)
        try:
            rows = load_file(path)["rows"] if path.is_file() else None
        except (SafetensorError, OSError, KeyError):
            path.unlink(missing_ok=True)
            rows = None
        self.hits, self.misses = self.hits + (rows is not None), self.misses + (rows is None)
        return rows

    def write(self, item: bytes, rows: Tensor) -> None:
        """Keep the rows of an item while there is room."""
        size = rows.numel() * rows.element_size()
        if size > self.room:
            return
        path = self._path(item)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_name(f"{path.stem}.{uuid4().hex}.tmp")
        save_file({"rows": rows.detach().cpu().contiguous()}, temporary)
        os.replace(temporary, path)
        self.room -= size

    def _path(self, item: bytes) -> Path:
        key = hashlib.sha256(item).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"
