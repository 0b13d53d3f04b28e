"""`python -m megabiomed.launch.selftest.storage FOLDER BYTES PLACE`: one task per node measures the shared file system.

FOLDER is on it; PLACE is `first,second,...`, the nodes: each reads what the next one wrote.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import write_json

_BLOCK = 8 * 2**20
_SMALL = 200
"""Small files for the metadata."""
_WAIT_S = 240.0


def main(folder: Path, size: int, nodes: list[str]) -> None:
    """Write, fsync, read the next node's file, make small files; the figures are in `NODE.json`."""
    node = os.environ.get("SLURMD_NODENAME", nodes[0])
    other = nodes[(nodes.index(node) + 1) % len(nodes)]
    found = _write(folder / f"{node}.bin", node, size)
    (folder / f"{node}.written").touch()
    found["metadata_per_s"] = _metadata(folder / f"{node}.small")
    write_json(folder / f"{node}.json", found)
    if other != node:
        _await(folder / f"{other}.written")
        found["read_bytes_per_s"] = _read(folder / f"{other}.bin", other, size)
        write_json(folder / f"{node}.json", found)
        (folder / f"{other}.bin").unlink()
    else:
        (folder / f"{node}.bin").unlink()
    print({key: f"{value:.4g}" for key, value in found.items()})


def blocks(node: str, size: int) -> Iterator[bytes]:
    """The content of a node's file, which no other node's has; each block is unlike the others."""
    pattern = (node.encode() + b"\0") * (_BLOCK // (len(node.encode()) + 1) + 1)
    for number in range(-(-size // _BLOCK)):
        head = number.to_bytes(8, "little")
        yield (head + pattern)[: min(_BLOCK, size - number * _BLOCK)]


def _write(file: Path, node: str, size: int) -> dict[str, float]:
    began = time.perf_counter()
    with file.open("wb") as stream:
        for block in blocks(node, size):
            stream.write(block)
        stream.flush()
        written = time.perf_counter()
        os.fsync(stream.fileno())
    ended = time.perf_counter()
    return {"write_bytes_per_s": size / (ended - began), "fsync_s": ended - written}


def _read(file: Path, node: str, size: int) -> float:
    """Bytes a second.

    Raises:
        FileError: it is not what the other node wrote.
    """
    with file.open("rb") as stream:
        # Written on another node; on storage of one machine the page cache may still serve it.
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        for number, wanted in enumerate(blocks(node, size)):
            if stream.read(len(wanted)) != wanted:
                raise FileError(f"{file} has other bytes than {node} wrote", got=f"in block {number}")
    return size / (time.perf_counter() - began)


def _metadata(folder: Path) -> float:
    """Small files a second, each created, renamed and deleted."""
    folder.mkdir()
    began = time.perf_counter()
    for number in range(_SMALL):
        file = folder / f"{number}.new"
        file.write_bytes(b"x")
        file.rename(folder / f"{number}").unlink()
    taken = time.perf_counter() - began
    folder.rmdir()
    return _SMALL / taken


def _await(file: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    # Listing asks the server; a name looked up too early may stay absent for a minute (nfs(5), lookupcache).
    while file.name not in os.listdir(file.parent):
        if time.monotonic() > deadline:
            raise FileError(f"{file} is not visible here", got=f"nothing within {_WAIT_S:.0f} s")
        time.sleep(0.05)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(","))
