"""`python -m megabiomed.launch.preflight RUN INCARNATION GROUP GPUS TYPE`: one task per node, before the ranks are started.

GROUP numbers the kinds of nodes of a job: only nodes of one kind are compared with each other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import megabiomed
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.files import make_writable, write_json
from megabiomed.ground.storage import room
from megabiomed.launch.preflight_verdict import MET, SMI_FIELDS, pairings, result_file, smi_problems
from megabiomed.launch.records import read_job
from megabiomed.launch.snapshot import CODE
from megabiomed.processes.signals import hear

# Bytes that must be free.
_SPACE = 2**30
_FILES = 100
"""Logs, caches of kernels, records."""
_ROUNDS = 20
_LEAST_S = 1.0
"""How long a product is measured: another process on the same cores slows one of them, and not all in a second."""
# Less than srun's --wait=300 and the check's time limit: a node that waits in vain must still write that it did.
_MEETING_S = 240.0


def main(run: Path, incarnation: str, group: int, gpus: int, gpu_type: str) -> None:
    """Run every check and write the result; a check that fails is a text in `problems`, never an exception.

    What a node finds out alone is written before it meets the others: it must not be blamed for a node that does not come.
    """
    node = os.environ.get("SLURMD_NODENAME", "localhost")
    if unseen := _visible(run):
        # Nothing is written: that would make the folder anew, in the container's own file system.
        sys.exit(f"{node}: {unseen}")
    measured: dict[str, float] = {}
    target = result_file(run, incarnation, node)
    target.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"node": node, "group": group, "problems": [], "measured": measured, "meeting": None}
    checks = {
        "storage": lambda: storage(run) + _code(run),
        "devices": lambda: _devices(gpus, gpu_type),
        "matrix product": lambda: _work(measured),
    }
    for result["checking"], check in checks.items():
        write_json(target, result)  # before the check: one that hangs is named by what stands in the file
        result["problems"] += _outcome(check)
    result["checking"] = None
    write_json(target, result)
    result["meeting"] = _in_time(lambda: _outcome(lambda: _meet(measured)))
    if result["meeting"] == MET:
        # Again at another moment: only a node that is slow both times is slow.
        result["checking"] = "second matrix product"
        write_json(target, result)
        result["problems"] += _outcome(lambda: _work(measured))
        result["checking"] = None
    write_json(target, result)
    print(f"{node}: {'; '.join(result['problems']) or 'well'}, {result['meeting']}, {measured}")


def _in_time(meet: Callable[[], list[str]]) -> str:
    """The outcome of the meeting. A thread keeps the time: torch's retries take more than twice its own time-out."""
    outcomes: list[list[str]] = []
    thread = threading.Thread(target=lambda: outcomes.append(meet()), daemon=True)
    thread.start()
    thread.join(_MEETING_S)
    return "; ".join(outcomes[0]) or MET if outcomes else f"nobody within {_MEETING_S:.0f} s"


def _outcome(check: Callable[[], list[str]]) -> list[str]:
    try:
        return check()
    except MegabiomedError as error:
        return [str(error)]
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]


def storage(run: Path) -> list[str]:
    """Whether the run folder is visible here, and has room."""
    if unseen := _visible(run):
        return [unseen]
    make_writable(run / "slurm" / "preflight")
    scratch = Path(os.environ.get("TMPDIR", "/tmp"))
    short = ((path, room(path).lacks(_SPACE, _FILES, "a start")) for path in (run, scratch))
    return [f"{path} is full: {said}" for path, said in short if said]


def _visible(run: Path) -> str | None:
    """Why the run folder cannot be used here; None when it is there."""
    if (run / "slurm" / "job.json").is_file():
        return None
    return f"the run folder {run} is not visible; mount it, in a container at the same path"


def _code(run: Path) -> list[str]:
    """Whether the submitted code runs here, and not another copy that an image or a shell's PYTHONPATH puts before it."""
    copy = run / "slurm" / CODE
    wanted = read_job(run).get("cluster", {}).get("snapshot")
    if not wanted or Path(megabiomed.__file__).resolve().is_relative_to(copy.resolve()):
        return []
    return [f"runs {Path(megabiomed.__file__).parent} and not the copy in {copy}: what replaces PYTHONPATH there?"]


def _devices(gpus: int, gpu_type: str) -> list[str]:
    import torch

    from megabiomed.processes import platform

    visible = platform.device_count()
    if visible < gpus:
        return [f"{visible} of {gpus} GPUs are visible"]
    problems = []
    for index in range(gpus):
        name = torch.cuda.get_device_name(index)
        free, total = torch.cuda.mem_get_info(index)
        if gpu_type != "-" and gpu_type.lower() not in name.lower():
            problems.append(f"GPU {index} is {name}, not {gpu_type}")
        if free < 0.9 * total:  # a process of an earlier job is still there; the driver itself takes less than a tenth
            problems.append(f"GPU {index} has {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    return problems + (graphics() if gpus else [])


def graphics() -> list[str]:
    """What nvidia-smi complains about."""
    query = f"--query-gpu=index,{','.join(SMI_FIELDS)}"
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    return smi_problems(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)


def _work(measured: dict[str, float]) -> list[str]:
    """Measure a product of matrices on each device, and keep the better of this and an earlier measurement."""
    import torch

    from megabiomed.processes import platform

    size, dtype = (8192, torch.bfloat16) if platform.has_cuda() else (1024, torch.float32)
    worst = 0.0
    for index in range(max(1, platform.device_count())):
        device = torch.device("cuda", index) if platform.has_cuda() else torch.device("cpu")
        ones = torch.ones(size, size, device=device, dtype=dtype)
        product = partial(torch.matmul, ones, ones)
        # The best of several rounds is the device's, the worst device is the node's: a run is as fast as its slowest rank.
        worst = max(worst, _best(product))
        # Ones times ones: every element of the product is the size, a power of two, exact in bf16.
        if float(product()[0, 0]) != size:
            return [f"{device} computes a wrong matrix product"]
    measured["matmul_s"] = min(measured.get("matmul_s", worst), worst)
    return []


def _best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of several rounds."""
    began = time.perf_counter()
    best, rounds = float("inf"), 0
    while rounds < _ROUNDS or time.perf_counter() - began < _LEAST_S:
        best, rounds = min(best, seconds_of_work(work)), rounds + 1
    return best


def _meet(measured: dict[str, float]) -> list[str]:
    """One rank per node: sum a vector with all others, read the clock at the same moment, then measure the links in pairs."""
    import torch
    import torch.distributed as dist

    from megabiomed.processes import platform

    platform.init_distributed(timeout_s=_MEETING_S, megatron=False)
    vector = torch.ones(1 << 20, device=platform.device())
    dist.all_reduce(vector)
    right = float(vector[0]) == dist.get_world_size()
    dist.barrier()
    measured["clock_s"] = time.time()
    measured["allreduce_s"] = min(
        seconds_of_work(lambda: dist.all_reduce(torch.ones_like(vector))) for _ in range(_ROUNDS)
    )
    if dist.get_world_size() > 1:
        measured["link_s"] = _link(vector)
    dist.destroy_process_group()
    return [] if right else ["the all-reduce gives a wrong sum"]


def _link(vector: Any) -> float:
    """Seconds to exchange a vector with the faster of two neighbours, so that only a slow node's own link counts.

    A slow node makes every all-reduce slow, on all nodes alike. In pairs, a healthy node has a healthy neighbour on one side.
    """
    import torch.distributed as dist

    rank, world = dist.get_rank(), dist.get_world_size()
    best = float("inf")
    for first, second in (pair for pairs in pairings(world) for pair in pairs):
        if rank in (first, second):
            peer = second if rank == first else first
            best = min(best, *(seconds_of_work(partial(exchange, vector, peer)) for _ in range(_ROUNDS)))
    return best


def exchange(vector: Any, peer: int) -> None:
    """Send a vector to another rank and receive one of the same size from it, at the same time."""
    import torch
    import torch.distributed as dist

    received = torch.empty_like(vector)
    both = [dist.P2POp(dist.isend, vector, peer), dist.P2POp(dist.irecv, received, peer)]
    for work in dist.batch_isend_irecv(both):
        work.wait()


def seconds_of_work(work: Callable[[], Any]) -> float:
    """Seconds that some work takes, on the device too."""
    from megabiomed.processes import platform

    platform.synchronize()
    began = time.perf_counter()
    work()
    platform.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    hear()
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    sys.stdout.flush()
    os._exit(0)  # a node that cannot meet the others would wait for its threads
