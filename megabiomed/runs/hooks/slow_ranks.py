"""Names the ranks that hold the others up, with their nodes, and keeps where the time of every rank went."""

from __future__ import annotations

import time
from statistics import mean
from typing import Any

import torch
import torch.distributed as dist

from megabiomed.engine.mesh import Mesh
from megabiomed.ground.files import write_json
from megabiomed.ground.node import node_name
from megabiomed.processes import messages
from megabiomed.runs.hooks.base import Hook
from megabiomed.runs.slow_ranks import Peer, SlowRank, Watch
from megabiomed.runs.step_times import Times
from megabiomed.runs.training import Step, Training

FILE = "ranks.json"
"""In the run folder: the newest times of every rank."""
"""In the run folder: the newest times of every rank."""
LEAST_STEPS = 10
"""Steps of a window: fewer say little."""
_EVERY_S = 30.0


class SlowRanks(Hook):
    """Gathers the times of all ranks at a logged step now and then: three numbers of each."""

    def __init__(self) -> None:
        self._watch: Watch | None = None
        self._slow: dict[int, SlowRank] = {}
        self._written = 0.0
        self._newest: dict[str, Any] = {}

    def at_start(self, training: Training) -> None:
        """See the base class."""
        settings = training.config.health
        if not settings.slow_share:
            return
        told = messages.gather([node_name(), _work(training.mesh)]) or []
        peers = [Peer(rank, host, work) for rank, (host, work) in enumerate(told)]
        self._watch = Watch(peers, settings.slow_share, settings.slow_windows)

    def after_step(self, training: Training, step: Step) -> None:
        """See the base class."""
        every = training.config.train.log_every
        if self._watch is None or step.number % (every * -(-LEAST_STEPS // every)):
            return
        times = _gathered(training.times.window())
        if times:
            self._tell(training, step.number, times)

    def on_leave(self, training: Training) -> None:
        """See the base class."""
        self._write(training, pause_s=0.0)

    def _tell(self, training: Training, step: int, times: list[Times]) -> None:
        assert self._watch is not None
        slow, reporter = self._watch.judge(times), training.reporter
        parts = {f"ranks/{part}_s": mean(getattr(each, part) for each in times) for part in ("compute", "wait", "data")}
        reporter.add({**parts, "ranks/slow": float(len(slow))})
        for found in slow:
            if found.peer.rank not in self._slow:
                reporter.event("slow_rank", step=step, **_values(found))
        now = {found.peer.rank: found for found in slow}
        for rank in sorted(self._slow.keys() - now.keys()):
            reporter.event("slow_rank_over", step=step, rank=rank, host=self._slow[rank].peer.host)
        self._slow = now
        if slow:
            more = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
            reporter.remark(f"slow: {slow[0].text()}{more}")
        rows = [
            {"rank": peer.rank, "host": peer.host, "work": peer.work, "slow": peer.rank in now,
             "compute_s": each.compute, "wait_s": each.wait, "data_s": each.data}
            for peer, each in zip(self._watch.peers, times)
        ]  # fmt: skip
        self._newest = {"step": step, "ranks": rows}
        self._write(training, _EVERY_S)

    def _write(self, training: Training, pause_s: float) -> None:
        if self._newest and time.monotonic() - self._written >= pause_s:
            self._written = time.monotonic()
            write_json(training.config.folder / FILE, self._newest)
            self._newest = {}


def _work(mesh: Mesh) -> str:
    """What ranks with the same work have in common."""
    return f"stage {mesh.coordinate('pp')}" if mesh.in_model else "encoders"


def _gathered(mine: Times | None) -> list[Times]:
    """The times of all ranks, on the first; none on the others, and where a window has no step. Collective."""
    values = (-1.0, -1.0, -1.0) if mine is None else (mine.compute, mine.wait, mine.data)
    sent = torch.tensor(values, dtype=torch.float64)
    first = dist.get_rank() == 0
    found = [torch.empty_like(sent) for _ in range(dist.get_world_size())] if first else None
    dist.gather(sent, found, dst=0)
    times = [Times(*each.tolist()) for each in found or []]
    return times if all(each.compute >= 0 for each in times) else []


def _values(found: SlowRank) -> dict[str, Any]:
    """For the event, by which a launcher finds the node."""
    return {
        "rank": found.peer.rank, "host": found.peer.host, "work": found.peer.work, "part": found.part,
        "factor": round(found.factor, 3), "lost": round(found.lost, 3),
        "own_s": round(found.own_s, 6), "peers_s": round(found.peers_s, 6),
    }  # fmt: skip
