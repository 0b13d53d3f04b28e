"""The folder in which the machines that share the jobs of a step meet: results, failures and progress, one file a job."""

from __future__ import annotations

import os
import pickle
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabiomed.ground import errors
from megabiomed.ground.errors import MegabiomedError, WorkerError
from megabiomed.ground.files import read_json, remove_tree, write_atomic, write_json
from megabiomed.ground.node import node_name

REPORT_S = 1.0
"""Seconds between two notes of a job on its progress."""


class JobFolder:
    """Files of `count` jobs: results/NNNNN.pickle, failures/NNNNN.json, progress/NNNNN.

    A result is written once its job's own files are durable; it is what makes the job done. Nothing here holds a lock: jobs
    are shared out by whoever starts them, each to one process at a time.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count = path, count
        self._done: set[int] = set()

    def prepare(self) -> None:
        """Make the folders, and forget the failures of an earlier try, and who did its jobs."""
        remove_tree(self.path / "failures")
        for name in ("results", "failures", "progress"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        self.forget_claims()

    def forget_claims(self) -> None:
        """Nobody does a job now."""
        remove_tree(self.path / "claims")
        (self.path / "claims").mkdir()

    def finish(self, number: int, result: Any) -> None:
        """Store the result of a job.

        Args:
            result: anything that pickles.
        """
        write_atomic(self._result(number), pickle.dumps(result))

    def has(self, number: int) -> bool:
        """Whether a job has a result."""
        return self._result(number).is_file()

    def result(self, number: int) -> Any:
        """What `finish` stored."""
        # As trustworthy as the code: the folder is the build's own, and an executor with its jobs is pickled there too.
        return pickle.loads(self._result(number).read_bytes())

    def done(self) -> set[int]:
        """Numbers of the jobs with a result."""
        # One listing, not a question for each job: there are tens of thousands, on a file system over a network.
        names = (name for name in os.listdir(self.path / "results") if name.endswith(".pickle") and name[0] != ".")
        found = {int(name.partition(".")[0]) for name in names}
        self._done |= {number for number in found if number < self.count}
        return self._done

    def claim(self, number: int) -> None:
        """Note that this process does a job; for engines on one machine."""
        (self.path / "claims" / f"{number:05d}").write_text(str(os.getpid()))

    def claims(self) -> set[int]:
        """Ids of the processes that began jobs which have no result."""
        found = set()
        for name in set(os.listdir(self.path / "claims")) - {f"{number:05d}" for number in self.done()}:
            with suppress(OSError, ValueError):  # being written at this moment
                found.add(int((self.path / "claims" / name).read_text()))
        return found

    def note(self, number: int) -> WorkNote:
        """Where a job notes its progress."""
        return WorkNote(self.path / "progress" / f"{number:05d}")

    def counted(self) -> tuple[int, int]:
        """Sums of the work that all jobs have noted: amount, size."""
        total = total_size = 0
        for name in os.listdir(self.path / "progress"):
            with suppress(OSError, ValueError):  # being written at this moment
                amount, size = map(int, (self.path / "progress" / name).read_text().split())
                total += amount
                total_size += size
        return total, total_size

    def fail(self, number: int, error: Exception) -> None:
        """Store what ended a job, for the process that waits for it."""
        record: dict[str, Any] = {"node": node_name(), "error": f"{type(error).__name__}: {error}"}
        if isinstance(error, MegabiomedError):
            words = {name: getattr(error, name) for name in ("got", "expected", "do")}
            shown = {name: None if value is None else str(value) for name, value in words.items()}
            record |= {"kind": type(error).__name__, "what": error.what, **shown}
        elif isinstance(error, OSError) and error.errno is not None:
            record |= {"errno": error.errno, "file": None if error.filename is None else str(error.filename)}
        record["traceback"] = "".join(traceback.format_exception(error))
        # On a full disk nothing more can be said; the job is then missed at the end.
        with suppress(OSError):
            write_json(self._file("failures", number), record)

    def raise_failure(self) -> None:
        """Raise the error of the first job that failed, if one did, as that job raised it."""
        names = sorted(name for name in os.listdir(self.path / "failures") if name[0] != ".")
        if not names:
            return
        record = read_json(self.path / "failures" / names[0], dict)
        if "kind" in record:
            kind: type[MegabiomedError] = getattr(errors, record["kind"])
            raise kind(record["what"], got=record["got"], expected=record["expected"], do=record["do"])
        if "errno" in record:
            raise OSError(record["errno"], os.strerror(record["errno"]), record["file"])
        raise WorkerError(
            f"job {int(names[0][:-5])} failed on {record['node']}",
            got=record["error"],
            do=f"see {self.path / 'failures' / names[0]}; run the same command again to resume",
        )

    def _result(self, number: int) -> Path:
        return self.path / "results" / f"{number:05d}.pickle"

    def _file(self, kind: str, number: int) -> Path:
        return self.path / kind / f"{number:05d}.json"


class WorkNote:
    """The sum of `count_work` in one job, in a file that is written now and then."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._total = self._size = 0
        self._written = 0.0

    def add(self, amount: int, size: int) -> None:
        self._total += amount
        self._size += size
        if time.monotonic() - self._written >= REPORT_S:
            self.write()

    def write(self) -> None:
        self._written = time.monotonic()
        with suppress(OSError):  # a note that is lost costs nothing; the next one comes
            self._file.write_text(f"{self._total} {self._size}")
