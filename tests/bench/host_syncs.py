"""Which lines make the host wait for the GPU."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from megabiomed.processes import platform

MESSAGE = "synchronizing CUDA operation"
FRAMES = 3
_LIBRARY = ("/warnings.py", "/contextlib.py", "/torch/", "/bench/host_syncs.py", "/threading.py")


@contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Counts synchronising calls by the innermost frames outside torch.

    torch warns of each (`torch.cuda.set_sync_debug_mode`): copies to pageable memory, `.item()`, `nonzero` and so on; not of
    explicit `torch.cuda.synchronize()` and events. Those of the backward pass appear where `backward` was called.
    """
    import torch

    found: Counter[str] = Counter()

    def show(message: object, *_: object, **__: object) -> None:
        if MESSAGE in str(message):
            found[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        if platform.has_cuda():
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if platform.has_cuda():
                torch.cuda.set_sync_debug_mode("default")


def _place() -> str:
    frames = [frame for frame in traceback.extract_stack() if not any(part in frame.filename for part in _LIBRARY)]
    places = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in frames[-FRAMES:]]
    return " < ".join(reversed(places))
