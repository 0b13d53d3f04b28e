"""The faults of `make bench-campaign` and `make bench-goodput`; each does it and returns what it did."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import psutil

from bench.fault_cluster import Place
from megabiomed.launch import records


def nodes_with_ranks(place: Place, run: Path) -> list[str]:
    """Of the newest start."""
    begin = records.last_begin(run)
    return place.cluster.run("scontrol", "show", "hostnames", begin.get("ranks_on") or begin["nodes"]).split()


def rank_processes(run: Path) -> dict[int, psutil.Process]:
    """Rank -> process of the ranks that run now; the run may have been submitted by another path."""
    found = {}
    for process in psutil.process_iter():
        try:
            words, known = " ".join(process.cmdline()), process.environ()
            # srun has the words as well, and is no rank.
            mine = ".worker" in words and f"/{run.name}/" in words and process.name().startswith("python")
            if mine and known.get("SLURM_PROCID", "").isdigit():
                found[int(known["SLURM_PROCID"])] = process
        except psutil.Error:
            continue
    return found


def _signalled(run: Path, dice: random.Random, number: signal.Signals) -> str:
    ranks = rank_processes(run)
    if not ranks:
        return "no rank runs"
    rank = dice.choice(sorted(ranks))
    ranks[rank].send_signal(number)
    return f"{number.name} for rank {rank}"


def kill_rank(place: Place, run: Path, dice: random.Random) -> str:
    """A rank dies."""
    return _signalled(run, dice, signal.SIGKILL)


def stop_rank(place: Place, run: Path, dice: random.Random) -> str:
    """A rank stands still for ever."""
    return _signalled(run, dice, signal.SIGSTOP)


def not_a_number(place: Place, run: Path, dice: random.Random) -> str:
    """One batch gives NaN."""
    return _asked(place, run, dice, "nan")


def flip(place: Place, run: Path, dice: random.Random) -> str:
    """A bit of the state of one rank changes."""
    return _asked(place, run, dice, "flip")


def _asked(place: Place, run: Path, dice: random.Random, kind: str) -> str:
    ranks = rank_processes(run)
    if not ranks:
        return "no rank runs"
    rank = dice.choice(sorted(ranks))
    (place.faults / f"{kind}.{rank}").touch()
    return f"{kind} on rank {rank}"


def power_off(place: Place, run: Path, dice: random.Random) -> str:
    """A node with a rank loses power; not the head node, without which SLURM needs a minute to requeue."""
    others = nodes_with_ranks(place, run)[1:] or nodes_with_ranks(place, run)
    node = dice.choice(others)
    place.cluster.power_off(node)
    return f"{node} is off"


def fill_disk(place: Place, run: Path, dice: random.Random) -> str:
    """No room for a checkpoint."""
    place.fill_disk()
    return "the disk is full"


def kill_controller(place: Place, run: Path, dice: random.Random) -> str:
    """slurmctld dies."""
    os.kill(int((place.cluster.base / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    return "slurmctld is dead"


def undo(place: Place, kind: str, said: str) -> None:
    """Make the machine whole again after a fault that lasts."""
    if kind == "node powered off" and said.endswith(" is off"):
        place.cluster.start_node(said.split()[0])
    elif kind == "disk full":
        place.free_disk()
    elif kind == "controller killed":
        place.cluster.start_controller()


Fault = Callable[[Place, Path, random.Random], str]
KINDS: dict[str, Fault] = {
    "rank killed": kill_rank,
    "rank stopped": stop_rank,
    "node powered off": power_off,
    "NaN in a batch": not_a_number,
    "bit flipped": flip,
    "disk full": fill_disk,
    "controller killed": kill_controller,
}
LASTS_S = {"node powered off": 60.0, "disk full": 60.0, "controller killed": 30.0}
"""After so many seconds it is undone."""
ENDS_START = ("rank killed", "rank stopped", "node powered off", "NaN in a batch", "bit flipped")
"""Faults after which the ranks begin again."""
