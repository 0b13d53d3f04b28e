"""One rank that tells the others values and errors, and writes what it was told.

python messages_worker.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megabiomed.ground.errors import CheckpointError, MegabiomedError
from megabiomed.processes import messages, platform

VALUES = {"first": 0.1 + 0.2, "second": [None, True, "ä\udcff"], "third": float("-inf"), "4": {}}


class OwnError(CheckpointError):
    """Known to one rank alone: the others show it as its nearest kind."""


def main() -> None:
    folder = Path(sys.argv[1])
    platform.init_distributed(timeout_s=60)
    rank = dist.get_rank()
    seen: dict[str, Any] = {
        "from the last": messages.broadcast(VALUES if rank == 2 else None, first=2),
        "gathered": messages.gather("x" * (10**rank)),
        "found": messages.from_first(lambda: [VALUES, rank]),
        "among two": None,
    }
    two = dist.new_group([1, 2])
    if rank > 0:
        seen["among two"] = messages.broadcast(rank, group=two)

    def refused() -> None:
        kind = type("RankError", (OwnError,), {}) if rank == 0 else OwnError
        raise kind("it does not fit", got=Path("/x"), expected=3, do="do that")

    try:
        messages.from_first(refused)
    except MegabiomedError as error:
        seen["error"] = [str(error), error.exit_code, isinstance(error, OwnError)]
    (folder / f"{rank}.json").write_text(json.dumps(seen))
    dist.destroy_process_group()
    platform.leave()


if __name__ == "__main__":
    main()
