"""Which lines make the host wait for the GPU."""

from __future__ import annotations

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from megabiomed.processes import platform

MESSAGE = "synchronizing CUDA operation"
FRAMES = 3
_LIBRARY = ("/warnings.py", "/contextlib.py", "/torch/", "/bench/host_syncs.py", "/threading.py")


@contextmanager
def counted_syncs() -> Iterator[Counter[str]]:
    """Counts synchronising calls by the innermost frames outside torch.

    torch warns of those that it makes itself (`torch.cuda.set_sync_debug_mode`): copies to pageable memory, `.item()`,
    `nonzero` and so on. Explicit waits for the device, an event or a stream are counted as they are called. Waits of the
    backward pass appear where `backward` was called.
    """
    import torch

    found: Counter[str] = Counter()

    def show(message: object, *_: object, **__: object) -> None:
        if MESSAGE in str(message):
            found[_place()] += 1

    with warnings.catch_warnings(), ExitStack() as explicit:
        for holder in (torch.cuda, torch.cuda.Event, torch.cuda.Stream):
            explicit.enter_context(_counted(holder, found))
        warnings.simplefilter("always")
        warnings.showwarning = show
        if platform.has_cuda():
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            if platform.has_cuda():
                torch.cuda.set_sync_debug_mode("default")


@contextmanager
def _counted(holder: Any, found: Counter[str]) -> Iterator[None]:
    original = holder.synchronize

    def synchronize(*args: Any, **kwargs: Any) -> Any:
        found[_place()] += 1
        return original(*args, **kwargs)

    holder.synchronize = synchronize
    try:
        yield
    finally:
        holder.synchronize = original


def _place() -> str:
    frames = [frame for frame in traceback.extract_stack() if not any(part in frame.filename for part in _LIBRARY)]
    places = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.name}" for f in frames[-FRAMES:]]
    return " < ".join(reversed(places))
