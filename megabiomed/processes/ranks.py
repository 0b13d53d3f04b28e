"""How a process becomes a rank of a run: join the process group, work, say how it ended, report errors."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from megabiomed.ground.errors import CorruptionError, MegabiomedError
from megabiomed.ground.files import write_json
from megabiomed.ground.outcome import explain
from megabiomed.ground.secrets import guard_process, masked
from megabiomed.processes.local import ERROR_FILE, write_error
from megabiomed.processes.phases import START
from megabiomed.processes.signals import StopFlag

VERDICT = "MEGABIOMED_VERDICT"
BAD_NODES = "bad_nodes"
"""Key of a verdict: node -> why the next start is to do without it."""
_PARTNER_GONE = (
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL remote process exited",
    "ncclRemoteError",
)
"""What gloo and NCCL say on the ranks that are left when one of a group has died."""

T = TypeVar("T")


def join(read: Callable[[], T], work: Callable[[T, StopFlag], str]) -> int:
    """Read what to do, join the process group, do it, say how it ended; returns the process's exit code.

    Args:
        read: needs no other rank and no torch. What goes wrong in it is reported as an error of `work` is.
        work: returns how it ended: "finished", "stopped", "ended".
    """
    # Before the import of torch, which takes seconds: a signal in that time must not end the process.
    stop = StopFlag()
    guard_process()
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    try:
        task = read()
        from megabiomed.processes import platform

        START.ended("imports")
        platform.init_distributed(stopped=lambda: stop.received is not None)
        START.ended("groups")
        _tell(work(task, stop))
        _shut_down()
        return 0
    except Exception as error:
        if isinstance(error, CorruptionError):
            _accuse(error)
        code, text = _explained(error)
        _report(text)
        return code


def _explained(error: Exception) -> tuple[int, str]:
    """Exit code and message; only a defect has a traceback in it."""
    if isinstance(error, MegabiomedError):
        return error.exit_code, str(error)
    if any(words in str(error) for words in _PARTNER_GONE):
        return 1, f"the connection to another rank was lost, and its log says why: got {_first_line(error)}"
    # Never the code of a wrong input: what a file system refuses on one node may go well on the next.
    return 1, explain(error, [*sys.orig_argv[1:]])[1].removeprefix("error: ") or _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _report(text: str) -> None:
    """Write the message where the launcher looks for it, and to this rank's log."""
    text = masked(text)
    print(text, file=sys.stderr, flush=True)
    path = os.environ.get(ERROR_FILE)
    if path:
        with suppress(OSError):  # a full disk; the launcher then shows the end of the log
            write_error(Path(path), text + "\n")


def _tell(outcome: str) -> None:
    """Rank 0 says how all ranks left; exit codes cannot (srun ends the others at the first one that is not 0)."""
    import torch.distributed as dist

    path = os.environ.get(VERDICT)
    if path and dist.get_rank() == 0:
        write_json(Path(path), {"outcome": outcome})


def _accuse(error: CorruptionError) -> None:
    """Tell the launcher which nodes are at fault. One rank of each node does: srun may end any of them at the first exit."""
    path = os.environ.get(VERDICT)
    if path and error.nodes and os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            write_json(Path(path), {"outcome": "", BAD_NODES: dict.fromkeys(error.nodes, f"corruption: {error.got}")})


def _shut_down() -> None:
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()
