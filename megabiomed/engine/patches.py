"""Everything that is changed in the libraries under the engine, or read past their interfaces, in one list.

Each entry has one function, below or in `zero_step`, and a test that fails without it (tests/engine/test_patches.py,
tests/engine/test_fused_adamw.py). DeepSpeed refuses ZeRO-2/3 under its own pipeline engine; one engine per stage under a
foreign schedule works, given these. docs/parallelism.md tells what each one prevents. `platform.prepare_megatron` stands
apart, because it is for hosts without CUDA alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import version
from inspect import unwrap
from types import CodeType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.ground.errors import LaunchError
from megabiomed.processes import platform

MADE_FOR = {"deepspeed": "0.19.8", "megatron-core": "0.16.1"}
"""Versions that the parity suite ran with; setup.py asks for them."""


@dataclass(frozen=True)
class Patch:
    """A symbol of a library that the engine replaces, sets, or reads although it is private.

    Attributes:
        symbol: dotted name: module, then class or function, then an attribute that it has or that its code sets.
        why: what the library does without it.
        stages: ZeRO stages that need it; none where it has nothing to do with DeepSpeed.
    """

    library: str
    symbol: str
    why: str
    stages: tuple[int, ...] = ()


_RUN = "deepspeed.runtime"
_ZERO3 = f"{_RUN}.zero.stage3.DeepSpeedZeroOptimizer_Stage3"
_ZERO12 = f"{_RUN}.zero.stage_1_and_2.DeepSpeedZeroOptimizer"
_BF16 = f"{_RUN}.bf16_optimizer.BF16_Optimizer"
_NORM = "clips in a pass of its own by a norm that the optimizer does not learn"
_CAST = "casts masters in a pass of its own"
_TRACE = f"{_RUN}.zero.partitioned_param_coordinator"


_IDLE = "lets the host wait for the device at every layer of a group of one rank"


def _zero(stages: str, symbol: str, why: str) -> Patch:
    return Patch("deepspeed", symbol, why, tuple(map(int, stages)))


PATCHES = (
    Patch("megatron-core", "torch.distributed.get_world_size", "lays its grid over all ranks of the world"),
    Patch(
        "megatron-core",
        "torch.compile",
        "loads torch's compiler for functions without use here (processes.megatron_core)",
    ),
    Patch("megatron-core", "torch.cuda.current_device", "asks a CPU for its CUDA device (platform.prepare_megatron)"),
    _zero("0123", "deepspeed.autotuning.autotuner.has_mlflow", "loads MLflow, over a second of every rank's start"),
    _zero("0123", "deepspeed.ops.__compatible_ops__", "compiles an operation for inference on CPU hosts"),
    _zero("0", f"{_RUN}.engine.DeepSpeedEngine.clip_fp32_gradients", "clips by a norm that it does not report"),
    _zero("1", f"{_BF16}.fp32_groups_gradients", "rounds a gradient to bf16 before it adds it to its fp32 buffer"),
    _zero("1", f"{_BF16}.fp32_groups_has_gradients", "leaves gradients that came past its hooks out of the norm"),
    _zero("1", f"{_BF16}.clear_hp_grads", "fills the whole fp32 buffer with zeros twice a step"),
    _zero("1", f"{_BF16}._update_hp_grad", "adds to a buffer that was not filled"),
    _zero(
        "12",
        "deepspeed.utils.mixed_precision_linkage.link_hp_params._hp_mapping",
        "hides which part of a parameter this is",
    ),
    _zero(
        "23",
        f"{_RUN}.base_optimizer.ZeROOptimizer.clear_backward_seen_flag",
        "learns of a new backward in forward only",
    ),
    _zero("3", "deepspeed.comm.barrier", "waits for the world while the optimizer is built"),
    _zero(
        "3", f"{_RUN}.zero.parameter_offload.DeepSpeedZeRoOffload.param_coordinator", "compares traces over the world"
    ),
    _zero("3", f"{_TRACE}.PartitionedParameterCoordinator.reset_step", "compares traces over the world"),
    _zero("3", f"{_TRACE}.assert_ints_same_as_other_ranks", "compares traces over the world"),
    _zero("3", f"{_RUN}.utils.is_model_parallel_parameter", "counts replicated parameters on the first stage alone"),
    _zero("3", f"{_RUN}.zero.partition_parameters.NoGatherHandle.wait", _IDLE),
    _zero("3", f"{_RUN}.zero.partition_parameters.NoGatherCoalescedHandle.wait", _IDLE),
    _zero("3", f"{_ZERO3}.grad_partitions_flat_buffer", "keeps gradients of the step before"),
    _zero(
        "3",
        f"{_ZERO3}._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition",
        "hides the fp32 gradient of a parameter",
    ),
    _zero(
        "3",
        f"{_ZERO3}.reduce_ready_partitions_and_remove_grads",
        "copies, divides and concatenates every gradient, and knows none that came past autograd",
    ),
    _zero("3", f"{_ZERO3}.micro_step_id", "copies the first micro-batch's gradients instead of adding them"),
    _zero("3", f"{_ZERO3}.grad_position", "hides where a parameter lies in the flat partition"),
    _zero("3", f"{_ZERO3}.fp32_partitioned_groups_flat", "hides the partitions that the optimizer steps"),
    _zero("3", f"{_ZERO3}.persistent_parameters", "gathers small parameters before weights are loaded"),
    _zero("1", f"{_BF16}._global_grad_norm", _NORM),
    _zero("12", f"{_ZERO12}._global_grad_norm", _NORM),
    _zero("3", f"{_ZERO3}._global_grad_norm", _NORM),
    _zero("1", f"{_BF16}.update_lp_params", _CAST),
    _zero("1", f"{_BF16}.bf16_partitioned_groups", _CAST),
    _zero("1", f"{_BF16}.fp32_groups_flat_partition", _CAST),
    _zero("1", f"{_RUN}.bf16_optimizer.all_gather_dp_groups", _CAST),
    _zero("3", f"{_ZERO3}._reassign_or_swap_out_partitioned_parameters", _CAST),
    _zero("3", f"{_ZERO3}._unflatten_partitioned_parameters", _CAST),
    _zero("3", f"{_ZERO3}.fp16_partitioned_groups_flat", _CAST),
    _zero("3", f"{_ZERO3}.unscale_and_clip_grads", "multiplies all gradients by 1 where nothing is clipped"),
    _zero("3", f"{_ZERO3}.reduce_and_partition_stream", "lets the host wait for the device after each backward pass"),
    _zero("3", f"{_ZERO3}.get_grad_norm_direct", "copies every gradient to fp64 for its norm"),
    _zero("3", f"{_ZERO3}._prepare_fp32_grad_for_sub_group", "concatenates gradients that are one tensor already"),
    _zero("3", f"{_ZERO3}.averaged_gradients", "keeps views of the gradients after the step"),
)


@cache
def check(library: str, zero_stage: int | None = None) -> None:
    """Compare an installed library with the one that the patches were made for; once per process.

    Another version is said on rank 0 in one line of standard error.

    Raises:
        LaunchError: a symbol that is needed is gone.
    """
    found, known = version(library), MADE_FOR[library]
    for patch in PATCHES:
        needed = patch.library == library and (not patch.stages or zero_stage in patch.stages)
        if needed and not _exists(patch.symbol):
            raise LaunchError(
                f"{library} has no {patch.symbol} any more, which the engine needs",
                got=f"{library} {found}", expected=f"{library} {known}", do=f"pip install {library}=={known}",
            )  # fmt: skip
    if found != known and dist.get_rank() == 0:
        print(f"warning: {library} {found}: the engine was proven exact with {known}", file=sys.stderr, flush=True)


def _exists(symbol: str) -> bool:
    """Whether a dotted name can be reached; the last part may be an attribute that only the code of the part before sets."""
    names = symbol.split(".")
    held: Any = import_module(names[0])
    for place, name in enumerate(names[1:], 1):
        if hasattr(held, name):
            held = getattr(held, name)
            continue
        try:
            held = import_module(".".join(names[: place + 1]))
        except ImportError:
            return place == len(names) - 1 and _sets(held, name)
    return True


def _sets(owner: Any, name: str) -> bool:
    """Whether the code of a function, or of one of a class's methods, names an attribute."""
    # Beneath decorators: most steps have torch.no_grad around them.
    functions = map(unwrap, filter(callable, vars(owner).values()) if isinstance(owner, type) else (owner,))
    codes = [code for function in functions if (code := getattr(function, "__code__", None)) is not None]
    while codes:
        code = codes.pop()
        if name in code.co_names:
            return True
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return False


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


def order_by_streams() -> None:
    """ZeRO-3 in a group of one rank: leave the order of a layer's weights and its computation to the streams.

    DeepSpeed lets the host wait for the device before each layer (92 times in a step of 6 blocks and 4 micro-batches, and an
    H100 was idle for a quarter of it), although it lets the computing stream wait for the gathering one right after.
    """
    from deepspeed.runtime.zero import partition_parameters as module

    for handle in (module.NoGatherHandle, module.NoGatherCoalescedHandle):
        if not hasattr(handle.wait, "in_order"):
            handle.wait = _in_order(handle.wait)


def _in_order(wait: Callable[..., None]) -> Callable[..., None]:
    def waits(handle: Any, **options: Any) -> None:
        from deepspeed.accelerator import get_accelerator

        accelerator = get_accelerator()
        accelerator.resolves_data_dependency = lambda: True
        try:
            wait(handle, **options)
        finally:
            del accelerator.resolves_data_dependency

    waits.in_order = True  # type: ignore[attr-defined]
    return waits


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
        optimizer.micro_step_id = 1


@dataclass(frozen=True)
class HeldPart:
    """The part of one parameter that is on this rank under ZeRO-1 to 3.

    Attributes:
        master: the flat fp32 partition that it lies in, which the optimizer steps.
        offset: its first element there.
        start, length: its first element in the flattened parameter, and its elements.
    """

    master: Tensor
    offset: int
    start: int
    length: int


def masters(optimizer: Any) -> list[Tensor]:
    """ZeRO-3: the flat fp32 partitions that the optimizer steps."""
    return list(optimizer.fp32_partitioned_groups_flat)


def partition(parameter: nn.Parameter, shard: int) -> tuple[int, int]:
    """ZeRO-3: (first element, elements) of a parameter on this rank; the last ranks' partitions end in padding."""
    start = parameter.partition_numel() * shard
    return start, max(0, min(parameter.partition_numel(), parameter.ds_numel - start))


def held_part(optimizer: Any, parameter: nn.Parameter, zero_stage: int, shard: int) -> HeldPart | None:
    """Where a trained parameter lies in this rank's masters; None where another rank has it."""
    if zero_stage == 3:
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
        held = HeldPart(optimizer.fp32_partitioned_groups_flat[group], offset, *partition(parameter, shard))
        return held if held.length else None
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    master = optimizer.optimizer.param_groups[mapping.param_group_index]["params"][0]
    address = mapping.lp_fragment_address
    return HeldPart(master, mapping.hp_fragment_address.start, address.start, address.numel)


@contextmanager
def persistent_apart(optimizer: Any) -> Iterator[None]:
    """ZeRO-3 keeps small parameters gathered: inside they are partitioned like the others, and gathered again after."""
    persistent = optimizer.persistent_parameters
    if persistent:
        persistent[0].partition(persistent)
    yield
    if persistent:
        persistent[0].all_gather(persistent)
