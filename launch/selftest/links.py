"""`python -m megabiomed.launch.selftest.links FILE BYTES`: every rank measures the links; rank 0 writes the figures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from megabiomed.ground.errors import CorruptionError
from megabiomed.ground.files import write_json
from megabiomed.launch.preflight import exchange, seconds_of_work
from megabiomed.launch.preflight_verdict import pairings
from megabiomed.processes import platform
from megabiomed.processes.ranks import join
from megabiomed.processes.signals import StopFlag

_ROUNDS = 5
Figures = dict[str, dict[str, float]]


def measure(file: Path, size: int) -> str:
    """Measure all links that there are, one kind after another, and write what is known after each.

    Args:
        size: bytes of a message.
    """
    vector = torch.ones(size // 4, device=platform.device())
    # Ranks of a node follow each other, and every node has the same number of them.
    here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["SLURM_NTASKS_PER_NODE"])
    world = dist.get_world_size()
    heads = list(range(0, world, here))
    found: Figures = {"all-reduce": _all_reduce(vector)}
    _write(file, found)
    if len(heads) > 1:
        rounds = [[(heads[a], heads[b]) for a, b in pairs] for pairs in pairings(len(heads))]
        found["between nodes"] = _spread(_exchange_pairs(vector, rounds))
        _write(file, found)
    if here > 1:
        found["within a node"] = _spread(_exchange_pairs(vector, [[(head, head + 1) for head in heads]]))
        _write(file, found)
    if platform.has_cuda():
        found["host and device"] = _copies(vector)
        _write(file, found)
    return "finished"


def _write(file: Path, found: Figures) -> None:
    if dist.get_rank() == 0:
        write_json(file, found)


def _all_reduce(vector: torch.Tensor) -> dict[str, float]:
    """Bus bandwidth as nccl-tests define it.

    Raises:
        CorruptionError: the sum is wrong.
    """
    world = dist.get_world_size()
    summed = vector.clone()
    dist.all_reduce(summed)
    if not bool((summed == world).all()):
        raise CorruptionError("the sum over all ranks is wrong", got=f"{float(summed[0])}", expected=str(world))
    best = _best(lambda: dist.all_reduce(torch.ones_like(vector)))
    moved = vector.numel() * 4 * 2 * (world - 1) / world
    return {"bus GB/s": moved / best / 1e9, "ms": best * 1e3}


def _best(work: Callable[[], object]) -> float:
    return min(seconds_of_work(work) for _ in range(_ROUNDS))


def _exchange_pairs(vector: torch.Tensor, rounds: Iterable[Iterable[tuple[int, int]]]) -> float:
    """Bytes a second in each direction of this rank's slowest pair; 0 for a rank without one."""
    rank, slowest = dist.get_rank(), 0.0
    for pairs in rounds:
        dist.barrier()
        for first, second in pairs:
            if rank in (first, second):
                peer = second if rank == first else first
                speed = vector.numel() * 4 / _best(partial(exchange, vector, peer))
                slowest = min(slowest or speed, speed)
    return slowest


def _spread(mine: float) -> dict[str, float]:
    """The slowest and the fastest of all ranks that measured something, and the rank of the slowest."""
    own = torch.tensor([mine], device=platform.device(), dtype=torch.float32)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    known = {rank: float(value) for rank, value in enumerate(every) if float(value) > 0}
    worst = min(known, key=lambda rank: known[rank])
    return {"slowest GB/s": known[worst] / 1e9, "fastest GB/s": max(known.values()) / 1e9, "slowest rank": worst}


def _copies(vector: torch.Tensor) -> dict[str, float]:
    host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
    size = vector.numel() * 4
    to_host = _spread(size / _best(lambda: host.copy_(vector)))
    to_device = _spread(size / _best(lambda: vector.copy_(host)))
    return {f"to host, {k}": v for k, v in to_host.items()} | {f"to device, {k}": v for k, v in to_device.items()}


if __name__ == "__main__":

    def work(size: int, stop: StopFlag) -> str:
        return measure(Path(sys.argv[1]), size)

    platform.leave(join(lambda: int(sys.argv[2]), work))
