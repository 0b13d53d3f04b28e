"""Ranks of a real run that start fast and can be killed: forks of a process that has already imported everything.

Only what a rank would have imported is shared; each fork joins its own process group and opens its own files.
"""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.config import RunConfig
from megabiomed.processes import platform
from megabiomed.runs import worker
from support.spawn import meeting

POLL_S = 0.0005
PATIENCE_S = 60.0  # the longest that a survivor took is in the report


@dataclass
class Ranks:
    """The processes of one incarnation.

    Attributes:
        codes: exit code of each rank that ended, negative for a signal.
    """

    pids: list[int]
    codes: dict[int, int] = field(default_factory=dict)

    def poll(self) -> bool:
        """Collect what ended; True while any rank runs."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    self.codes[rank] = os.waitstatus_to_exitcode(status)
        return len(self.codes) < len(self.pids)

    def signal(self, number: signal.Signals, ranks: list[int]) -> None:
        """Send a signal to ranks that still run."""
        self.poll()
        for rank in ranks:
            if rank not in self.codes:
                os.kill(self.pids[rank], number)

    def wait(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait for all to end; kill those that do not, and return False."""
        deadline = time.monotonic() + patience_s
        while self.poll():
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL, list(range(len(self.pids))))
                while self.poll():
                    time.sleep(POLL_S)
                return False
            time.sleep(POLL_S)
        return True


def start(config: RunConfig, world: int, log_dir: Path) -> Ranks:
    """Fork the ranks of one incarnation of a run."""
    log_dir.mkdir(parents=True, exist_ok=True)
    shared = {"WORLD_SIZE": str(world), **meeting(log_dir)}
    pids = []
    for rank in range(world):
        log = log_dir / f"rank_{rank}.log"
        log.touch()
        pid = os.fork()
        if pid == 0:
            _become_rank(config, shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, log)
        pids.append(pid)
    return Ranks(pids)


def _become_rank(config: RunConfig, environment: dict[str, str], log: Path) -> None:
    code = 70
    try:
        os.environ.update(environment)
        with log.open("ab") as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        code = worker.run(lambda: config)
    finally:
        platform.leave(code)


@dataclass(frozen=True)
class Strike:
    """When to hit which ranks.

    Attributes:
        moment: `any` (a delay after the start), `writing` (a temporary folder appears), `renamed` (a folder has its final
            name and no marker).
        nth: how many such moments pass first.
        delay_s: from the moment to the signal.
        freeze: stop all ranks instead of killing some.
    """

    moment: str
    ranks: list[int]
    nth: int = 0
    delay_s: float = 0.0
    freeze: bool = False


def draw(rng: random.Random, world: int, typical_s: float) -> Strike:
    """A random strike; three in five aim at a save."""
    ranks = rng.choice([[0], [world - 1], list(range(world))])
    moment = rng.choice(["any", "any", "writing", "writing", "renamed"])
    if rng.random() < 0.06:
        return Strike("writing", list(range(world)), rng.randrange(2), rng.uniform(0, 0.02), freeze=True)
    if moment == "any":
        return Strike(moment, ranks, delay_s=rng.uniform(0, typical_s))
    return Strike(moment, ranks, rng.randrange(3), rng.uniform(0, 0.03) if moment == "writing" else 0.0)


def hit(ranks: Ranks, strike: Strike, checkpoints: Path) -> str | None:
    """Wait for the moment and hit; returns the state of the folder right after, or None when the run ended before."""
    if strike.moment != "any" and not _await(ranks, strike, checkpoints):
        return None
    until = time.monotonic() + strike.delay_s
    while time.monotonic() < until:
        if not ranks.poll():
            return None
        time.sleep(POLL_S)
    ranks.signal(signal.SIGSTOP if strike.freeze else signal.SIGKILL, strike.ranks)
    return state(checkpoints)


def _await(ranks: Ranks, strike: Strike, checkpoints: Path) -> bool:
    """Whether the moment came `nth` + 1 times before the run ended."""
    seen: set[str] = set()
    before = set(_moments(checkpoints, strike.moment))
    while ranks.poll():
        seen.update(set(_moments(checkpoints, strike.moment)) - before)
        if len(seen) > strike.nth:
            return True
        time.sleep(POLL_S)
    return False


def _moments(checkpoints: Path, moment: str) -> list[str]:
    try:
        with os.scandir(checkpoints) as entries:
            names = [entry.name for entry in entries]
    except FileNotFoundError:
        return []
    if moment == "writing":
        return [name for name in names if ".tmp-" in name]
    return [name for name in names if ".tmp-" not in name and not (checkpoints / name / COMMITTED).exists()]


def state(checkpoints: Path) -> str:
    """What is in the folder: `writing`, `not marked`, `moved aside`, `between saves` or `empty`."""
    names = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.is_dir() else []
    if any(".old-" in name for name in names):
        return "moved aside"
    if any(".tmp-" not in name and not (checkpoints / name / COMMITTED).exists() for name in names):
        return "not marked"
    if any(".tmp-" in name for name in names):
        return "writing"
    return "between saves" if names else "empty"
