"""What DeepSpeed 0.19.8 needs to be exact inside a pipeline stage. Each measure is one function with a test without it.

DeepSpeed refuses ZeRO-2/3 under its own pipeline engine; one engine per stage under a foreign schedule works, given these
(docs/parallelism.md tells what each one prevents).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megabiomed.processes import platform


def skip_shared_memory_build() -> None:
    """Do not JIT-compile the shared-memory collective op on CPU hosts; only inference uses it and it needs a compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def check_traces_inside(dp_group: dist.ProcessGroup) -> None:
    """Compare ZeRO-3's module traces inside the stage's data-parallel group.

    The original broadcasts from global rank 0 over the world; stages run different modules at different times, so it
    deadlocks (runtime/zero/utils.py `assert_ints_same_as_other_ranks`).
    """
    import deepspeed.runtime.zero.partitioned_param_coordinator as coordinator

    def same_in_group(ints: list[int]) -> None:
        if dp_group.size() == 1:
            return
        mine = torch.tensor(_fingerprint(ints), dtype=torch.int64, device=platform.device())
        low, high = mine.clone(), mine.clone()
        dist.all_reduce(low, op=dist.ReduceOp.MIN, group=dp_group)
        dist.all_reduce(high, op=dist.ReduceOp.MAX, group=dp_group)
        if not torch.equal(low, high):
            raise RuntimeError("ZeRO-3 ran different modules on the ranks of one data-parallel group")

    coordinator.assert_ints_same_as_other_ranks = same_in_group


@contextmanager
def barriers_among(ranks: dist.ProcessGroup | None) -> Iterator[None]:
    """Let DeepSpeed's barriers without a group wait for the ranks of the model alone.

    ZeRO-3's optimizer waits for the whole world while it is built (runtime/zero/stage3.py, three bare `dist.barrier()`), and
    ranks that hold encoders alone build none.

    Args:
        ranks: all ranks of the model; None where they are the world.
    """
    from deepspeed import comm

    original = comm.barrier
    try:
        comm.barrier = partial(original, group=ranks)
        yield
    finally:
        comm.barrier = original


def _fingerprint(ints: list[int]) -> list[int]:
    # Length and two polynomial hashes: the trace can have thousands of entries. Ids count from the process's first engine,
    # and a process may have built others before, so they are compared relative to the smallest.
    base = min(ints, default=0)
    first = second = 0
    for value in (entry - base for entry in ints):
        first = (first * 1_000_003 + value + 1) % (2**31 - 1)
        second = (second * 998_244_353 + value + 7) % (2**31 - 19)
    return [len(ints), first, second]


class _BeginBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, optimizer: Any) -> Tensor:
        ctx.optimizer = optimizer
        return y.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.optimizer.clear_backward_seen_flag()
        return grad, None


def mark_backward(y: Tensor, optimizer: Any) -> Tensor:
    """Identity whose backward tells ZeRO that a new backward begins.

    ZeRO resets that state in forward only; under 1F1B and GPipe several backwards follow one another, and from the second
    on gradients would not be reduced.
    """
    if torch.is_grad_enabled() and y.requires_grad and hasattr(optimizer, "clear_backward_seen_flag"):
        return _BeginBackward.apply(y, optimizer)
    return y


def forget_old_gradients(optimizer: Any) -> None:
    """Zero ZeRO-3's gradient partitions before a step.

    The first micro-batch of a step copies into them and later ones add; a parameter that the first one did not use would
    keep the previous step's gradient (seen: wrong interleaved schedules, wrong mixed molecule/protein batches).
    """
    buffer = getattr(optimizer, "grad_partitions_flat_buffer", None)
    if buffer is not None:
        buffer.zero_()
        optimizer.micro_step_id = 1


def mark_replicated(parameter: torch.nn.Parameter, counts_here: bool) -> None:
    """Make a parameter that all tensor ranks hold count once in the global norm, on the first tensor rank of each stage."""
    if counts_here:
        parameter.model_parallel = True


@contextmanager
def world_of(size: int) -> Iterator[None]:
    """megatron-core 0.16.1 lays its grid over torch's world. Here it sees the first `size` ranks of it alone.

    The others call it too, because making a group is collective over the world, and get none.
    """
    asked = torch.distributed.get_world_size
    try:
        torch.distributed.get_world_size = lambda group=None: size if group is None else asked(group)
        yield
    finally:
        torch.distributed.get_world_size = asked
