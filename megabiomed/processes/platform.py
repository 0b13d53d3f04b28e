"""The only place that knows CPU from CUDA: device, process-group backend, types, memory, peak rates, CPU patches."""

from __future__ import annotations

import gc
import hashlib
import os
import re
import resource
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from megabiomed.ground.errors import LaunchError
from megabiomed.processes.rendezvous import MEETING, open_store

# megatron-core says at import that these optional GPU libraries are absent; nothing here uses them.
warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")

_PATIENT: list[dist.ProcessGroup] = []

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Dense bf16 tensor-core peaks in FLOP/s without sparsity, from NVIDIA's data sheets; the MFU denominator.
PEAK_FLOPS = {"A100": 312e12, "A800": 312e12, "H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "B200": 2250e12}


def has_cuda() -> bool:
    """True when this process can use a CUDA device."""
    return torch.cuda.is_available()


def device() -> torch.device:
    """The device of this process: the only CUDA device that it sees, or `cuda:LOCAL_RANK`; without CUDA the CPU.

    Raises:
        LaunchError: there are more processes on this host than devices.
    """
    if not has_cuda():
        return torch.device("cpu")
    count = torch.cuda.device_count()
    # `srun --gpus-per-task=1` shows every task one device, which is number 0 for it.
    index = 0 if count == 1 else local_rank()
    if index >= count:
        raise LaunchError(
            "this host has fewer devices than processes",
            got=f"local rank {index}, {count} devices",
            do="start at most one process per GPU of a host",
        )
    return torch.device("cuda", index)


def local_rank() -> int:
    """Rank inside this host, as torchrun (LOCAL_RANK) or srun (SLURM_LOCALID) set it."""
    named = next((name for name in ("LOCAL_RANK", "SLURM_LOCALID") if name in os.environ), None)
    return 0 if named is None else _whole_number(named, 0, 10**6)


def _whole_number(name: str, least: int, most: int) -> int:
    """An environment variable by which a launcher, or whoever left it behind in a shell, describes this process."""
    text = os.environ[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise LaunchError(
            "this process cannot join a run: an environment variable describes no rank of it",
            got=f"{name}={text[:40]!r}", expected=f"a whole number from {least} to {most}",
            do="if it is left over in the shell, unset RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
        )  # fmt: skip
    return int(text)


def device_count() -> int:
    """CUDA devices of this host; 0 on a CPU host."""
    return torch.cuda.device_count() if has_cuda() else 0


def init_distributed(
    timeout_s: float = 600.0, megatron: bool = True, stopped: Callable[[], bool] = lambda: False
) -> None:
    """Join the process group described by RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT (or SLURM's equivalents).

    Backend: NCCL with CUDA (plus gloo for host tensors), gloo without. Where the launcher named a file to meet by
    (`megabiomed.processes.rendezvous`), rank 0 chooses the port.

    Args:
        megatron: also prepare megatron-core's layers, whose import takes seconds.
        stopped: whether this process was asked to leave; asked while it waits for the others.
    """
    if dist.is_initialized():
        return
    _adopt_slurm()
    meeting = os.environ.get(MEETING)
    needed = ("RANK", "WORLD_SIZE", "MASTER_ADDR", *(() if meeting else ("MASTER_PORT",)))
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise LaunchError(
            "this process cannot join a run: environment variables are missing",
            got=f"no {', '.join(missing)}",
            do="start it with `megabiomed pretrain`, torchrun or srun",
        )
    world = _whole_number("WORLD_SIZE", 1, 10**6)
    rank = _whole_number("RANK", 0, world - 1)
    if not meeting and world > 1 and _whole_number("MASTER_PORT", 0, 65535) == 0:
        raise LaunchError(
            "the ranks cannot meet at port 0: each would choose another one",
            got="MASTER_PORT=0",
            do="set a free port; with torchrun on one host use --standalone",
        )
    os.environ.setdefault("LOCAL_RANK", str(local_rank()))
    # The last collectives of every rank, for the page about a run that hangs. torch reads it when it makes the groups.
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    if has_cuda():
        torch.cuda.set_device(device())
        os.environ["LOCAL_RANK"] = str(device().index)  # DeepSpeed takes it for the number of the device
    backend = "cuda:nccl,cpu:gloo" if has_cuda() else "gloo"
    store = open_store(rank, world, timeout_s, stopped)
    limit = timedelta(seconds=timeout_s)
    dist.init_process_group(backend, timeout=limit, store=store, rank=rank, world_size=world)
    if megatron:
        prepare_megatron()


def patient_group(limit_s: float) -> dist.ProcessGroup:
    """A gloo group of all ranks for waits that are meant; `limit_collectives` leaves it alone. Collective."""
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=limit_s))
    _PATIENT.append(group)
    return group


def limit_collectives(limit_s: float) -> None:
    """Give every group of this process, patient ones left out, so many seconds for each of its next collectives.

    torch, megatron-core and DeepSpeed each make their groups with a limit of their own (10 or 30 minutes), and there is no
    public way to change it later: this is what megatron-core's `update_pg_timeout` calls too.
    """
    for group in list(distributed_c10d._world.pg_map):
        if not any(group is patient for patient in _PATIENT):
            distributed_c10d._set_pg_timeout(timedelta(seconds=limit_s), group)


def end_groups() -> None:
    """End all process groups but that of the world: those of a model that this process is done with. Collective.

    Every gloo group has a thread that wakes a hundred times a second: 500 groups that nobody uses take half a core.
    """
    dist.barrier()  # a slower rank may still need them
    if (parallel_state := sys.modules.get("megatron.core.parallel_state")) is not None:
        parallel_state.destroy_model_parallel()
    for group in list(distributed_c10d._world.pg_map):
        if group is not dist.group.WORLD:
            dist.destroy_process_group(group)
    _PATIENT.clear()
    gc.collect()  # engines hold their groups in cycles


def init_alone() -> None:
    """A process group of this process alone. Its environment keeps LOCAL_RANK, which DeepSpeed reads, and nothing by which
    what it starts would be taken for a rank."""
    before = dict(os.environ)
    os.environ.pop(MEETING, None)
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    try:
        init_distributed()
    finally:
        os.environ.clear()
        os.environ.update({"LOCAL_RANK": "0", **before})


def leave(code: int = 0) -> NoReturn:
    """End a process that held a process group, without Python's own end.

    A gloo thread that lets go of its last collective while the interpreter finalizes aborts the process (exit code -6,
    "terminate called without an active exception"; pytorch/pytorch#179291), even after `destroy_process_group`; and after
    an error, threads would wait for collectives that never come.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _adopt_slurm() -> None:
    """Under plain srun, fill torch's variables from SLURM's (one task per device)."""
    for torch_name, slurm_name in (
        ("RANK", "SLURM_PROCID"),
        ("WORLD_SIZE", "SLURM_NTASKS"),
        ("LOCAL_RANK", "SLURM_LOCALID"),
    ):
        if torch_name not in os.environ and slurm_name in os.environ and "MASTER_ADDR" in os.environ:
            os.environ[torch_name] = os.environ[slurm_name]


def prepare_megatron() -> None:
    """Let megatron-core's layers run without CUDA: its sequence-parallel buffers ask for `torch.cuda.current_device()`.

    One symbol, replaced only where CUDA is absent (megatron-core 0.16.1: tensor_parallel/mappings.py `_gather_along_first_dim`
    and `_reduce_scatter_along_first_dim`, layers.py backward). Never active on a GPU.
    """
    if has_cuda():
        return
    import megabiomed.processes.megatron_core  # noqa: F401

    torch.cuda.current_device = _cpu_as_current_device


def _cpu_as_current_device() -> torch.device:
    return torch.device("cpu")


def peak_flops() -> float | None:
    """Peak dense bf16 FLOP/s of this device, or None when it is unknown (a CPU, an unlisted GPU)."""
    if not has_cuda():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)


def peak_memory_bytes() -> int:
    """Largest memory use so far: of the GPU's allocator, or of this process on a CPU (resident set)."""
    if has_cuda():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def seed_all(*parts: int) -> None:
    """Seed torch's generators (CPU and CUDA) with a number that is a pure function of `parts`."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


class Later:
    """Numbers on the device, copied to the host behind the work that is queued now and read when more has been queued.

    Reading them then waits for that work alone; `float()` would wait for everything, and the device for the host after it.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self._held, self._copied = value.detach(), None
        if value.is_cuda:
            self._held = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._held.copy_(value.detach(), non_blocking=True)
            self._copied = torch.cuda.current_stream().record_event()

    def read(self) -> float:
        """The number, where it is one."""
        (value,) = self.read_all()
        return value

    def read_all(self) -> list[float]:
        """All numbers of a vector."""
        if self._copied is not None:
            self._copied.synchronize()
        return [float(value) for value in self._held.reshape(-1).tolist()]


class Mark:
    """A point in the work of this process: of the device's current stream, or of the host where there is no device.

    Setting one waits for nothing.
    """

    def __init__(self) -> None:
        self._seconds, self._event = 0.0, None
        if has_cuda():
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record()
        else:
            self._seconds = time.perf_counter()

    def since(self, earlier: Mark) -> float:
        """Seconds between two marks; waits until the device has reached this one."""
        if self._event is None or earlier._event is None:
            return self._seconds - earlier._seconds
        self._event.synchronize()
        return float(earlier._event.elapsed_time(self._event)) / 1000


def synchronize() -> None:
    """Wait for the device's queued work (no-op on a CPU)."""
    if has_cuda():
        torch.cuda.synchronize()


def driver_version() -> str:
    """The version of NVIDIA's driver as nvidia-smi shows it, such as "580.95.05", or the CUDA version that it can serve."""
    with suppress(OSError):
        found = re.search(r"\b\d+\.\d+(\.\d+)?\b", Path("/proc/driver/nvidia/version").read_text())
        if found:
            return found[0]
    ask = getattr(torch._C, "_cuda_getDriverVersion", None)  # only builds for CUDA have it
    return f"CUDA {ask()}" if has_cuda() and ask else "none"


def profiled() -> list[torch.profiler.ProfilerActivity]:
    """What torch's profiler records here."""
    activity = torch.profiler.ProfilerActivity
    return [activity.CPU, activity.CUDA] if has_cuda() else [activity.CPU]


def describe() -> str:
    """One line about the device, for logs and benchmark files."""
    if has_cuda():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    return f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads per process"
