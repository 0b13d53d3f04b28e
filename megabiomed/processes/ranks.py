"""How a process becomes a rank of a run: join the process group, work, say how it ended, report errors."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from megabiomed.ground.errors import MegabiomedError, RendezvousError, UserError
from megabiomed.ground.files import write_json
from megabiomed.processes.local import ERROR_FILE
from megabiomed.processes.phases import START
from megabiomed.processes.signals import StopFlag

VERDICT = "MEGABIOMED_VERDICT"


T = TypeVar("T")


def join(read: Callable[[], T], work: Callable[[T, StopFlag], str]) -> int:
    """Read what to do, join the process group, do it, say how it ended; returns the process's exit code.

    Args:
        read: needs no other rank and no torch. What goes wrong in it is reported as an error of `work` is.
        work: returns how it ended: "finished", "stopped", "ended".
    """
    # Before the import of torch, which takes seconds: a signal in that time must not end the process.
    stop = StopFlag()
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
    except MegabiomedError as error:
        # Where a rank waited in vain, its stack says nothing.
        _report(error, "" if isinstance(error, UserError | RendezvousError) else traceback.format_exc())
        return error.exit_code
    except Exception as error:
        _report(error, traceback.format_exc())
        return 1


def _report(error: Exception, trace: str) -> None:
    """Write the error where the launcher looks for it, and to this rank's log."""
    text = trace or f"{error}\n"
    print(text, file=sys.stderr, flush=True)
    path = os.environ.get(ERROR_FILE)
    if path:
        Path(path).write_text(text)


def _tell(outcome: str) -> None:
    """Rank 0 says how all ranks left; exit codes cannot (srun ends the others at the first one that is not 0)."""
    import torch.distributed as dist

    path = os.environ.get(VERDICT)
    if path and dist.get_rank() == 0:
        write_json(Path(path), {"outcome": outcome})


def _shut_down() -> None:
    import torch.distributed as dist

    dist.barrier()
    dist.destroy_process_group()
