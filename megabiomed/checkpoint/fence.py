"""The fence: of two processes that believe they are the run, only the one that started last may commit.

A node that lost contact keeps training while the scheduler already restarted the job elsewhere; its next checkpoint
would overwrite the history of the new incarnation.

Claims are numbered, and a line that a start adds to the run's records carries the number of its claim. A process can freeze
between its last look at the fence and its write; `of_owners` leaves such a line out.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import CheckpointError, UserError
from megabiomed.ground.files import read_json, write_json

FENCE = "fence.json"
CLAIM = "claim"
"""Key of a record: the number of the claim under which it was written."""


@dataclass(frozen=True)
class Fence:
    """The right to commit into a run folder, held until somebody claims it anew.

    Attributes:
        token: unlike that of any other claim; names temporary folders and is written into every checkpoint.
        number: above those of all earlier claims of the folder.
    """

    folder: Path
    token: str
    number: int = 0

    @classmethod
    def claim(cls, folder: Path, owner: str | None = None) -> Fence:
        """Take over a run folder; every earlier claim loses the right to commit. Called by rank 0 at the start.

        Args:
            owner: whom to name in the token; default is the SLURM job and its restart count, else host and process.
        """
        # The token becomes part of folder names, and `catalog` reads it back from there.
        owner = re.sub(r"[^A-Za-z0-9_.-]", "_", owner or default_owner())
        # The owner alone may repeat: one process can claim a folder twice.
        token = f"{owner}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True)
        # Seconds since 1970 or more: also above the earlier ones where the fence was removed, or the clock was set back.
        number = max(_number(folder) + 1, int(time.time()))
        claimed = datetime.now(UTC).isoformat(timespec="seconds")
        # The last claim wins. There is no lock, which a dead node would leave behind for a person to remove.
        write_json(folder / FENCE, {"token": token, "number": number, "claimed": claimed})
        return cls(folder, token, number)

    @classmethod
    def inherit(cls, folder: Path, owner: str) -> Fence | None:
        """The claim that this very start has made already, in another process; None when it made none that still holds."""
        token = holder(folder)
        return cls(folder, token, _number(folder)) if token.rpartition("-")[0] == owner else None

    def taken_over(self) -> bool:
        """Whether a later start has certainly claimed the run folder; a commit asks more strictly with `check`."""
        try:
            return bool(read_json(self.folder / FENCE).get("token") != self.token)
        except (UserError, OSError):  # storage that is away for a moment is no reason to end a training
            return False

    def check(self) -> None:
        """Refuse to go on when the run folder was claimed by a later start.

        Raises:
            CheckpointError: naming the token that holds the run folder now.
        """
        # Stricter than `taken_over`: a commit needs proof, so storage that is away raises here.
        holder = read_json(self.folder / FENCE).get("token")
        if holder != self.token:
            raise lost(self.folder, holder, self.token)


def holder(folder: Path) -> str:
    """Token of whoever may commit into a run folder now; empty when nobody ever claimed it."""
    return str(read_json(folder / FENCE).get("token")) if (folder / FENCE).is_file() else ""


def lost(folder: Path, holder: str, mine: str) -> CheckpointError:
    """What a start is told whose run folder belongs to a later one."""
    return CheckpointError(
        f"the run folder {folder} was taken over by a later start of this run",
        got=f"fence of {holder}",
        expected=mine,
        do="end this process; the later one goes on",
    )


def of_owners(records: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records of a run without those that a start added after a later one had begun to write.

    Records without a number are kept: an operator wrote them, or an earlier release.
    """
    newest = 0
    for record in records:
        number = record.get(CLAIM)
        if isinstance(number, int):
            if number < newest:
                continue
            newest = number
        yield record


def _number(folder: Path) -> int:
    """Number of the newest claim of a run folder; 0 when there is none, or it cannot be read."""
    with suppress(UserError, OSError):
        number = read_json(folder / FENCE, dict).get("number")
        return number if isinstance(number, int) else 0
    return 0


def default_owner() -> str:
    """`<job>.<restart>` under SLURM (a requeued job keeps its id), else `<host>.<process>`."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return f"{socket.gethostname()}.{os.getpid()}"
