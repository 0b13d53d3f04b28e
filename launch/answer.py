"""`python -m megabiomed.launch.answer RUN GPUS`: whether a node of a running job can take part in its next start.

A second without torch, where the preflight at the beginning of the job takes a minute: a restart must not wait for more. The
answer goes to standard output, because other nodes see a new file on shared storage only after a while.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil

from megabiomed.ground.errors import MegabiomedError
from megabiomed.launch import preflight, scheduler

ANSWER_S = 20.0
"""A node that says nothing for so long is silent. srun itself gives a node twice SLURM's MessageTimeout (10 s)."""
_LEAVE_S = 10.0
"""How long ranks of the earlier start may need to leave: a killed process frees the memory of its GPU before it is gone."""
_BATCH_STEPS = 1 << 31
"""SLURM numbers the steps of batch scripts and operators above it."""


def main(run: Path, gpus: int) -> None:
    """Print `{"node": ..., "problems": [...]}`."""
    problems: list[str] = []
    try:
        problems += preflight.storage(run)
        problems += preflight.graphics() if gpus else []
        problems += left_over(os.environ)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    print(json.dumps({"node": os.environ.get("SLURMD_NODENAME", "localhost"), "problems": problems}), flush=True)


def left_over(mine: Mapping[str, str]) -> list[str]:
    """Ranks of an earlier start of this job that are still on this node after a while."""
    deadline = time.monotonic() + _LEAVE_S
    while found := [process.pid for process in psutil.process_iter() if _is_rank(process, mine)]:
        if time.monotonic() > deadline:
            return [f"ranks of the earlier start do not end (process {', '.join(map(str, found))})"]
        time.sleep(0.1)
    return []


def _is_rank(process: psutil.Process, mine: Mapping[str, str]) -> bool:
    """Whether a process belongs to another step of this job, and not to its batch script."""
    with suppress(psutil.Error, OSError):
        if process.name().startswith(("srun", "slurm")) or process.status() == psutil.STATUS_ZOMBIE:
            return False
        theirs = process.environ()
        step = theirs.get("SLURM_STEP_ID", "")
        return (
            "MEGABIOMED_LOGS" in theirs
            and theirs.get("SLURM_JOB_ID") == mine.get("SLURM_JOB_ID")
            and theirs.get("SLURM_CONF") == mine.get("SLURM_CONF")
            and theirs.get("SLURMD_NODENAME") == mine.get("SLURMD_NODENAME")
            and step.isdigit()
            and int(step) < _BATCH_STEPS
            and step != mine.get("SLURM_STEP_ID")
        )
    return False


def ask(run: Path, nodes: Iterable[str], python: str, gpus: int) -> dict[str, list[str]]:
    """Node -> its problems, of those that answer in time; one step of the job for each, so that none waits for another.

    Args:
        python: that of the batch script, which needs no container.
    """
    steps = {node: _step(run, node, python, gpus) for node in nodes}
    deadline = time.monotonic() + ANSWER_S
    answers: dict[str, list[str]] = {}
    for node, step in steps.items():
        try:
            said, _ = step.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            step.kill()
            said, _ = step.communicate()
        for line in said.splitlines():
            with suppress(ValueError, TypeError, KeyError):
                answers[node] = [str(problem) for problem in json.loads(line)["problems"]]
    return answers


def _step(run: Path, node: str, python: str, gpus: int) -> subprocess.Popen[str]:
    # --overlap: the step of the ranks may still hold the node, where a node of it is gone.
    words = [
        "srun",
        "--overlap",
        "--nodes=1",
        "--ntasks=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        f"--nodelist={node}",
    ]
    words += [f"--het-group={group}"] if (group := _component(node)) is not None else []
    command = [*words, "--export=ALL", python, "-m", "megabiomed.launch.answer", str(run), str(gpus)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def _component(node: str) -> int | None:
    """Number of the component of a job on several kinds of nodes that a node belongs to; None of any other job."""
    for group in range(int(os.environ.get("SLURM_HET_SIZE", "0"))):
        with suppress(MegabiomedError, KeyError):
            if node in scheduler.hostnames(os.environ[f"SLURM_JOB_NODELIST_HET_GROUP_{group}"]):
                return group
    return None


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
