"""What the engine changes in megatron-core and DeepSpeed while it uses them; `patches.PATCHES` lists each with its reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.processes import platform


@contextmanager
def world_of(size: int) -> Iterator[None]:
    """megatron-core lays its grid over torch's world. Here it sees the first `size` ranks of it alone.

    The others call it too, because making a group is collective over the world, and get none.
    """
    asked = torch.distributed.get_world_size
    try:
        torch.distributed.get_world_size = lambda group=None: size if group is None else asked(group)
        yield
    finally:
        torch.distributed.get_world_size = asked


@contextmanager
def without_module(name: str) -> Iterator[None]:
    """Inside, an optional module that nobody imported yet looks as if it were not installed."""
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[name]


def mask_on_device() -> None:
    """ZeRO-1 and 2: mark a norm that is not finite without a number from the host.

    DeepSpeed makes that number on the device and reads it back, for which the host waits twice.
    """
    from deepspeed.runtime import utils
    from deepspeed.runtime.zero import stage_1_and_2

    utils.mask_nan_or_inf_with_val_inplace = _mask
    stage_1_and_2.mask_nan_or_inf_with_val_inplace = _mask


def _mask(norm: Tensor, device: Any = None, val: float = -1.0) -> None:
    norm.masked_fill_(~norm.isfinite(), val)


def skip_shared_memory_build() -> None:
    """Do not JIT-compile the shared-memory collective op on CPU hosts; only inference uses it and it needs a compiler."""
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def clip_with(deepspeed: Any, clip: Callable[[], None]) -> None:
    """ZeRO-0: let `clip` clip the gradients before each step."""
    deepspeed.clip_fp32_gradients = clip


def check_traces_inside(optimizer: Any, shards: dist.ProcessGroup) -> None:
    """ZeRO-3: compare the module traces of this engine inside its own group.

    The original broadcasts from global rank 0 over the world; stages run different modules at different times, so it
    deadlocks. The comparison is replaced while this engine's coordinator runs it, and for no other engine of the process.
    """
    import deepspeed.runtime.zero.partitioned_param_coordinator as module

    coordinator = optimizer.parameter_offload.param_coordinator
    reset, compared = coordinator.reset_step, partial(_same_in, shards)

    def reset_step() -> None:
        original = module.assert_ints_same_as_other_ranks
        try:
            module.assert_ints_same_as_other_ranks = compared
            reset()
        finally:
            module.assert_ints_same_as_other_ranks = original

    coordinator.reset_step = reset_step


def _same_in(group: dist.ProcessGroup, ints: list[int]) -> None:
    if group.size() == 1:
        return
    mine = torch.tensor(_fingerprint(ints), dtype=torch.int64, device=platform.device())
    low, high = mine.clone(), mine.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN, group=group)
    dist.all_reduce(high, op=dist.ReduceOp.MAX, group=group)
    if not torch.equal(low, high):
        raise RuntimeError("ZeRO-3 ran different modules on the ranks of one data-parallel group")


def _fingerprint(ints: list[int]) -> list[int]:
    # Length and two polynomial hashes: the trace can have thousands of entries. Ids count from the process's first engine,
    # and a process may have built others before, so they are compared relative to the smallest.
    base = min(ints, default=0)
    first = second = 0
    for value in (entry - base for entry in ints):
        first = (first * 1_000_003 + value + 1) % (2**31 - 1)
        second = (second * 998_244_353 + value + 7) % (2**31 - 19)
    return [len(ints), first, second]


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
    """ZeRO-2 and 3: identity whose backward tells ZeRO that a new backward begins.

    ZeRO resets that state in forward only; under 1F1B and GPipe several backwards follow one another, and from the second
    on gradients would not be reduced.
    """
    if torch.is_grad_enabled() and y.requires_grad:
        return _BeginBackward.apply(y, optimizer)
    return y


def mark_replicated(parameter: nn.Parameter, counts_here: bool) -> None:
    """ZeRO-3: make a parameter that all tensor ranks hold count once in the global norm, on the first one of each stage."""
    if counts_here:
        parameter.model_parallel = True


def forget_old_gradients(optimizer: Any, filled: bool = True) -> None:
    """Zero ZeRO-3's gradient partitions before a step.

    The first micro-batch of a step copies into them and later ones add; a parameter that the first one did not use would
    keep the previous step's gradient (seen: wrong interleaved schedules, wrong mixed molecule/protein batches).

    Args:
        filled: False where `MainGradients` takes care of every partition.
    """
    if optimizer.grad_partitions_flat_buffer is not None:
        if filled:
            optimizer.grad_partitions_flat_buffer.zero_()
        # Not 0, at which DeepSpeed would copy instead of adding to the zeros.
        optimizer.micro_step_id = 1


def drop_refused_gradients(optimizer: Any) -> None:
    """ZeRO-1 and 2 with the optimizer on the host: after a step that DeepSpeed skips, forget its gradients.

    It keeps them there (runtime/zero/stage_1_and_2.py, `if self.overflow`), and the next step would be added to NaN.
    """
    for group in optimizer.averaged_gradients:
        optimizer.averaged_gradients[group] = None
