"""Where the ranks of a run meet: at a port that the system gave rank 0, which tells the others by a file.

A port that is chosen before rank 0 binds it may be taken by then; this one cannot be.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from megabiomed.ground.errors import WorkerError

if TYPE_CHECKING:
    from torch.distributed import TCPStore

MEETING = "MEGABIOMED_MEETING"
"""Set by the launchers: a file that no other start uses, in a folder that is there and that all ranks see."""


def open_store(file: Path, rank: int, world: int, timeout_s: float) -> TCPStore:
    """The store of a process group at MASTER_ADDR, opened by rank 0; sets MASTER_PORT.

    Raises:
        WorkerError: rank 0 did not tell its port in time.
    """
    from torch.distributed import TCPStore

    port = 0 if rank == 0 else _told(file, timeout_s)
    limit = timedelta(seconds=timeout_s)
    store = TCPStore(os.environ["MASTER_ADDR"], port, world, rank == 0, limit, wait_for_workers=False)
    if rank == 0:
        _tell(file, store.port)
    os.environ["MASTER_PORT"] = str(store.port)
    return store


def _tell(file: Path, port: int) -> None:
    half = file.with_name(f".{file.name}")
    half.write_text(str(port))
    half.replace(file)


def _told(file: Path, timeout_s: float) -> int:
    deadline, pause = time.monotonic() + timeout_s, 0.02
    while True:
        # Listing a folder asks its server; a name looked up too early may stay absent for a minute (nfs(5), lookupcache).
        with suppress(OSError):
            if file.name in os.listdir(file.parent):
                return int(file.read_text())
        if time.monotonic() > deadline:
            raise WorkerError(
                "rank 0 did not say where the ranks meet",
                got=f"no {file} in {timeout_s:.0f} s",
                do="see the log of rank 0; it may have died, or its node does not write into the run folder",
            )
        time.sleep(pause)
        pause = min(1.0, 1.5 * pause)
