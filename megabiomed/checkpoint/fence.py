"""The fence: of two processes that believe they are the run, only the one that started last may commit.

A node that lost contact keeps training while the scheduler already restarted the job elsewhere; its next checkpoint
would overwrite the history of the new incarnation.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from megabiomed.ground.errors import CheckpointError, UserError
from megabiomed.ground.files import read_json, write_json

FENCE = "fence.json"


@dataclass(frozen=True)
class Fence:
    """The right to commit into a run folder, held until somebody claims it anew.

    Attributes:
        token: unlike that of any other claim; names temporary folders and is written into every checkpoint.
    """

    folder: Path
    token: str

    @classmethod
    def claim(cls, folder: Path, owner: str | None = None) -> Fence:
        """Take over a run folder; every earlier claim loses the right to commit. Called by rank 0 at the start.

        Args:
            owner: whom to name in the token; default is the SLURM job and its restart count, else host and process.
        """
        owner = re.sub(r"[^A-Za-z0-9_.-]", "_", owner or default_owner())
        token = f"{owner}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FENCE, {"token": token, "claimed": datetime.now(UTC).isoformat(timespec="seconds")})
        return cls(folder, token)

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
        holder = read_json(self.folder / FENCE).get("token")
        if holder != self.token:
            raise CheckpointError(
                f"the run folder {self.folder} was taken over by a later start of this run",
                got=f"fence of {holder}",
                expected=self.token,
                do="end this process; the later one goes on",
            )


def holder(folder: Path) -> str:
    """Token of whoever may commit into a run folder now; empty when nobody ever claimed it."""
    return str(read_json(folder / FENCE).get("token")) if (folder / FENCE).is_file() else ""


def default_owner() -> str:
    """`<job>.<restart>` under SLURM (a requeued job keeps its id), else `<host>.<process>`."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        return f"{job}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    return f"{socket.gethostname()}.{os.getpid()}"
