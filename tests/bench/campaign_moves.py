"""What an operator types in `make bench-campaign`, and the faults beside it; each returns what was said."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.zygote import run_python

from bench import fault_kinds
from bench.fault_checks import OVER
from bench.fault_cluster import Place
from bench.fault_kinds import rank_processes
from megabiomed.launch import records

COMMON = (
    "train.log_every=1", "train.hang_timeout_s=15", "train.collective_timeout_s=60", "optimizer.schedule=constant",
    "optimizer.lr=3e-4", "checkpoint.save_every=10", "health.check_every=1", "model.hidden_size=128",
    "model.intermediate_size=256", "data.micro_batch_size=8", "data.global_batch_size=64",
)  # fmt: skip
"""Of every run; large enough that it lasts for several actions."""
SHAPES: dict[str, tuple[int, tuple[str, ...], dict[str, Any]]] = {
    "pair": (
        2,
        ("parallel.tensor_parallel_size=1", "parallel.data_parallel_size=2", "parallel.zero_stage=1"),
        {"spare_nodes": 1},
    ),
    "four": (
        4,
        ("parallel.tensor_parallel_size=2", "parallel.data_parallel_size=2", "parallel.zero_stage=3"),
        {"shrink_after": 15},
    ),
}
"""Nodes, topology, and the cluster file's own keys of each kind of run."""


@dataclass
class State:
    """What the campaign knows of its present run and of the machine.

    Attributes:
        held: the run waits because the operator wished it, or was ended by them; nothing has to happen.
        off: nodes without power.
        away: the controller is dead; full: the disk is.
    """

    place: Place
    steps: int
    dice: random.Random = field(default_factory=random.Random)
    number: int = 0
    shape: str = "pair"
    held: bool = False
    away: bool = False
    full: bool = False
    off: list[str] = field(default_factory=list)

    @property
    def run(self) -> Path:
        """Folder of the present run."""
        return self.place.disk / f"run{self.number}-{self.shape}"

    @property
    def other_path(self) -> Path:
        """The same folder by a link."""
        return self.place.folder / "link" / self.run.name

    def type(self, *words: object) -> str:
        """The exit code of a command and the end of what it said; a traceback is an error of the campaign."""
        environment = {**self.place.cluster.environment, "OMP_NUM_THREADS": "1"}
        command = ["-m", "megabiomed.cli", *map(str, words)]
        done = run_python(command, environment, timeout_s=240, where=self.place.folder)
        said = (done.stdout + done.stderr).strip()
        if "Traceback" in said:
            raise AssertionError(f"megabiomed {' '.join(map(str, words))}: {said[-3000:]}")
        return f"{done.returncode}: {' / '.join(said.splitlines()[-2:])[-300:]}"

    def live(self) -> dict[str, str]:
        """State of the run's job that is not over, with its id; empty when there is none."""
        for line in self.place.live().splitlines():
            number, state, reason, _, script = line.split("|", 4)
            if f"/{self.run.name}/" in script and state not in OVER:
                return {"id": number, "state": state, "reason": reason}
        return {}


def submit(state: State) -> str:
    """A new run, if the present one is finished; else the present one again."""
    if state.number == 0 or records.is_finished(state.run):
        state.number += 1
        state.shape = list(SHAPES)[state.number % len(SHAPES)]
    return _submit(state, state.run)


def submit_by_another_path(state: State) -> str:
    """The present run by a link to its folder."""
    return _submit(state, state.other_path)


def _submit(state: State, run: Path) -> str:
    nodes, topology, own = SHAPES[state.shape]
    state.place.configure(tasks_per_node=1, max_failures=4, time="00:08:00", grace_seconds=30, **own)
    file, profile = state.place.operator.run_file, state.place.operator.profile
    words = [f"run_dir={run}", f"train.steps={state.steps}", *COMMON, *topology]
    said = state.type("submit", file, "--cluster", profile, "--nodes", nodes, *words)
    state.held = state.held and not said.startswith("0:")
    return said


def save(state: State) -> str:
    """Save and go on."""
    return state.type("save", state.run)


def pause(state: State) -> str:
    """Save, leave the nodes, wait."""
    return _held(state, state.type("pause", state.run))


def hold(state: State) -> str:
    """A waiting job stays where it is."""
    return _held(state, state.type("hold", state.run))


def _held(state: State, said: str) -> str:
    state.held = state.held or _did(said)
    return said


def _did(said: str) -> bool:
    return said.startswith("0:") and "nothing to" not in said


def release(state: State) -> str:
    """Go on."""
    said = state.type("release", state.run)
    state.held = state.held and not _did(said)
    return said


def cancel_save(state: State) -> str:
    """Save and end."""
    return _held(state, state.type("cancel", state.run, "--save"))


def control_end(state: State) -> str:
    """The same by hand."""
    (state.run / "control").mkdir(exist_ok=True)
    (state.run / "control" / "end").touch()
    state.held = True
    return "control/end written"


def resubmit(state: State) -> str:
    """With the stored script."""
    return _resubmitted(state, state.type("resubmit", state.run))


def resubmit_smaller(state: State) -> str:
    """On two nodes; a run of two nodes stays as it is."""
    return _resubmitted(state, state.type("resubmit", state.run, "--nodes", 2))


def _resubmitted(state: State, said: str) -> str:
    state.held = state.held and ("submitted" not in said and "release" not in said)
    return said


def requeue(state: State) -> str:
    """`scontrol requeue`."""
    return _scontrol(state, "requeue", "{id}")


def time_limit(state: State) -> str:
    """`scontrol update TimeLimit=`: longer or shorter."""
    return _scontrol(state, "update", "jobid={id}", f"timelimit={state.dice.choice([3, 6, 15])}")


def _scontrol(state: State, *words: str) -> str:
    job = state.live()
    if not job:
        return "no job"
    try:
        state.place.cluster.run("scontrol", *(word.format(**job) for word in words))
    except Exception as error:  # SLURM refuses what does not fit the job's state
        return f"refused: {getattr(error, 'stderr', error)}".strip()[:200]
    return f"job {job['id']} was {job['state']}"


def fault(kind: str) -> Callable[[State], str]:
    """One of the faults of `make bench-goodput`."""

    def strike(state: State) -> str:
        return fault_kinds.KINDS[kind](state.place, state.run, state.dice)

    return strike


def power_off(state: State) -> str:
    """Any node, the head node too."""
    on = [name for name in state.place.cluster.names if name not in state.off]
    node = state.dice.choice(on)
    state.place.cluster.power_off(node)
    state.off.append(node)
    return f"{node} is off"


def power_on(state: State) -> str:
    """All nodes that are off."""
    said = f"{', '.join(state.off) or 'no node was off'}"
    while state.off:
        state.place.cluster.start_node(state.off.pop())
    return said


def controller(state: State) -> str:
    """Killed, and started again by the next move."""
    os.kill(int((state.place.cluster.base / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    state.away = True
    return "slurmctld is dead"


def fill_disk(state: State) -> str:
    """Until the next move; sometimes a start fails meanwhile."""
    state.place.fill_disk()
    state.full = True
    killed = state.dice.random() < 0.3
    return "the disk is full" + (f", {fault('rank killed')(state)}" if killed else "")


def mend(state: State, nodes: bool = False) -> None:
    """The controller comes back and the disk is freed; nodes stay off until somebody turns them on."""
    if state.away:
        state.place.cluster.start_controller()
    if state.full:
        state.place.free_disk()
    state.away = state.full = False
    if nodes:
        power_on(state)


MOVES: dict[str, tuple[Callable[[State], str], int]] = {
    "submit": (submit, 3),
    "submit by another path": (submit_by_another_path, 4),
    "save": (save, 5),
    "pause": (pause, 4),
    "release": (release, 4),
    "hold": (hold, 3),
    "cancel --save": (cancel_save, 3),
    "control/end": (control_end, 3),
    "resubmit": (resubmit, 4),
    "resubmit --nodes 2": (resubmit_smaller, 4),
    "scontrol requeue": (requeue, 6),
    "scontrol update TimeLimit": (time_limit, 5),
    "rank SIGKILL": (fault("rank killed"), 8),
    "rank SIGSTOP": (fault("rank stopped"), 6),
    "node powered off": (power_off, 7),
    "nodes powered on": (power_on, 5),
    "controller killed": (controller, 6),
    "disk full": (fill_disk, 6),
    "NaN in a batch": (fault("NaN in a batch"), 6),
    "bit flipped": (fault("bit flipped"), 6),
}
"""What is done, and how often among all of them."""


def draw(state: State) -> str:
    """The next move: one that fits, or any."""
    if state.number == 0 or records.is_finished(state.run):
        return "submit"
    if len(state.off) >= 2:
        return "nodes powered on"
    if not state.held and not state.live():  # it gave up, and waits for its operator
        return state.dice.choice(["resubmit", "resubmit", "submit", "submit by another path"])
    if state.held and state.dice.random() < 0.5:
        return state.dice.choice(["release", "resubmit", "resubmit --nodes 2", "submit"])
    names = list(MOVES)
    if not rank_processes(state.run):
        names = [
            name for name in names if name not in ("rank SIGKILL", "rank SIGSTOP", "NaN in a batch", "bit flipped")
        ]
    return state.dice.choices(names, weights=[MOVES[name][1] for name in names])[0]
