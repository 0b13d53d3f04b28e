"""`python -m megabiomed.launch.stage_in.node RUN LOGS`: one task on each node copies what the ranks will read; without torch.

It leaves a note for the ranks of its node (ground/staged.py), after each copy anew: one that is stopped loses only what it had
not finished. Whatever fails, the ranks read the shared path.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

from megabiomed.ground import mounts
from megabiomed.ground.errors import FileError, MegabiomedError
from megabiomed.ground.files import write_json
from megabiomed.ground.node import node_name
from megabiomed.ground.staged import note_of
from megabiomed.ground.storage import refusal
from megabiomed.launch import records
from megabiomed.launch.stage_in.copying import WORKERS, Progress, copy_source
from megabiomed.launch.stage_in.figures import duration, size
from megabiomed.launch.stage_in.report import FOLDER, RECORD
from megabiomed.launch.stage_in.shelf import Shelf
from megabiomed.launch.stage_in.sources import source_of
from megabiomed.processes.signals import warned

_AT_ONCE = 4
"""Sources that are copied side by side."""


def say(text: str) -> None:
    """A line in this node's log."""
    print(f"{time.strftime('%H:%M:%S')} {node_name()}: {text}", flush=True)


class Note:
    """What a node tells, from its first copy on.

    Args:
        keys: of what it is to copy.
        tell: gets the whole note each time; one call at a time.
    """

    def __init__(self, keys: list[str], tell: Callable[[dict[str, Any]], None]) -> None:
        self._keys = keys
        self._tell = tell
        self._began = time.monotonic()
        self._found: dict[int, dict[str, Any] | None] = {}
        self._lock = Lock()
        self._tell(self.whole())

    def add(self, number: int, copy: dict[str, Any] | None) -> None:
        """What became of one of them; None: nothing of its kind is copied."""
        with self._lock:
            self._found[number] = copy
            self._tell(self.whole())

    def whole(self) -> dict[str, Any]:
        """`node`, `seconds`, `copies` in the order of their keys, and `unfinished`: keys of what is not copied yet."""
        copies = [copy for _, copy in sorted(self._found.items()) if copy is not None]
        unfinished = [key for number, key in enumerate(self._keys) if number not in self._found]
        seconds = round(time.monotonic() - self._began, 2)
        return {"node": node_name(), "seconds": seconds, "copies": copies, "unfinished": unfinished}


def stage(
    wanted: dict[str, Any], distrusted: bool = False, tell: Callable[[dict[str, Any]], None] = lambda note: None
) -> dict[str, Any]:
    """Copy what is wanted; returns the note: `copies`, each with `local` None and `why` where the shared path is read.

    Args:
        distrusted: whether what is there is copied again.
        tell: gets the note after each source.
    """
    until = time.monotonic() + 60 * float(wanted["minutes"])
    progress = Progress(until, say)
    reads = [(str(group), str(key), str(path)) for group, key, path in wanted["reads"]]
    note = Note([key for _, key, _ in reads], tell)
    try:
        shelf = Shelf(_folder(wanted), wanted["max_bytes"])
    except (OSError, MegabiomedError) as error:
        for number, (_, key, path) in enumerate(reads):
            note.add(number, _left(key, path, error))
        return note.whole()
    with ThreadPoolExecutor(_AT_ONCE) as sources, ThreadPoolExecutor(WORKERS) as blocks:
        one = partial(_staged, shelf, blocks, progress, until, distrusted)
        list(sources.map(lambda read: note.add(read[0], one(*read[1])), enumerate(reads)))
    return note.whole()


def _folder(wanted: dict[str, Any]) -> Path:
    """Where this node keeps copies.

    Raises:
        FileError: a variable of its name is not set here, or the container of this process does not show it.
    """
    name = os.path.expandvars(wanted["folder"])
    if unset := re.search(r"\$(\w+|\{\w+\})", name):
        raise FileError(f"stage_in.folder cannot be used: {unset[0]} is not set on this node", got=name)
    if wanted.get("image") and mounts.is_of_image(Path(name)):
        raise FileError(f"{name} is not mounted in the container", do="mount it there at the same path")
    return Path(name)


def _staged(
    shelf: Shelf,
    pool: ThreadPoolExecutor,
    progress: Progress,
    until: float,
    distrusted: bool,
    group: str,
    key: str,
    path: str,
) -> dict[str, Any] | None:
    """One entry of the note; None for what is not to be copied."""
    try:
        source = source_of(Path(path), group)
        if source is None:
            return None
        if distrusted:
            shelf.forget(source)
        began = time.monotonic()

        def copy(folder: Path) -> dict[str, dict[str, Any]]:
            progress.expect(source.bytes)
            say(f"{key}: copying {size(source.bytes)} of {path}")
            return copy_source(source, folder, pool, progress)

        taken = shelf.take(source, copy, until)
    except (OSError, MegabiomedError) as error:
        return _left(key, path, error)
    seconds = time.monotonic() - began
    rate = "there already" if taken.reused else f"copied and compared in {duration(seconds)}"
    say(f"{key}: {size(source.bytes)} in {taken.local}, {rate}")
    files = {name: [file["bytes"], file["mtime_ns"], file["local_ns"]] for name, file in taken.files.items()}
    return {
        "key": key, "source": source.path, "bytes": source.bytes, "local": str(taken.local), "lock": str(taken.lock),
        "files": files, "reused": taken.reused, "seconds": round(seconds, 2),
    }  # fmt: skip


def _left(key: str, path: str, error: Exception) -> dict[str, Any]:
    where = f": {error.filename}" if isinstance(error, OSError) and error.filename else ""
    why = f"{error.strerror}{where}" if isinstance(error, OSError) and error.strerror else str(error)
    say(f"{key}: {path} is read where it is: {why}")
    return {"key": key, "source": os.path.abspath(path), "local": None, "why": why}


def still_read(run: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """What is wanted, without that of which a checkpoint of the run has all that a start reads."""
    step = records.committed_step(run)
    done = wanted.get("until_saved", []) if step else []  # a job of an earlier release names none
    for key in done:
        say(f"{key}: not copied, the run goes on from its checkpoint of step {step}")
    return {**wanted, "reads": [read for read in wanted["reads"] if read[1] not in done]}


def failed_on_copies(run: Path, wanted: dict[str, Any]) -> bool:
    """Whether a rank on this node was the first to fail in the last start, by reading: its copies may be damaged."""
    ends = [record for record in records.history(run) if record["kind"] == "end"]
    failure = ends[-1].get("first_failure") if ends else None
    if not isinstance(failure, dict) or failure.get("node") != node_name():
        return False
    said = f"{failure.get('how')} {failure.get('error')}"
    return any(sign in said for sign in ("SIGBUS", "Input/output error", os.path.expandvars(wanted["folder"])))


def main(run: Path, logs: Path) -> None:
    """Copy for this node, and leave the note after each copy."""
    # The job was asked to leave. Nobody failed, so srun has nothing to report; the next copy removes what is half done.
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
    if warned():
        return
    wanted = records.read_job(run).get(RECORD)
    if not isinstance(wanted, dict):
        return
    file = note_of(logs / FOLDER, node_name())

    def tell(note: dict[str, Any]) -> None:
        try:
            write_json(file, note)
        except OSError as error:  # the shared storage refuses; the next copy tries again
            say(f"{file} cannot be written: {refusal(error, file)}")

    stage(still_read(run, wanted), failed_on_copies(run, wanted), tell)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
