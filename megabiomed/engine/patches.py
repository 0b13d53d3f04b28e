"""Everything that is changed in the libraries under the engine, or read past their interfaces, in one list.

Each entry has one function, in `workarounds`, `zero_gathers`, `zero_parts` or `zero_step`, and a test that fails without it
(tests/engine/test_patches.py, test_fused_adamw.py, test_host_waits.py). DeepSpeed refuses ZeRO-2/3 under its own pipeline
engine; one engine per stage under a foreign schedule works, given these. docs/parallelism.md tells what each one prevents.
`platform.prepare_megatron` stands apart, because it is for hosts without CUDA alone.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import version
from inspect import unwrap
from types import CodeType
from typing import Any

import torch.distributed as dist

from megabiomed.ground.errors import LaunchError

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
_GRADIENT = "hides the reduced gradient of a parameter from whoever wants its norm"
_TRACE = f"{_RUN}.zero.partitioned_param_coordinator"
_PARAMETER = f"{_RUN}.zero.partition_parameters.Init._convert_to_deepspeed_param"
_MASK = "makes a number on the device for the norm, for which the host waits twice"
_FETCHES = "fetches and releases every layer also where one rank has all of it"


def _zero(stages: str, symbol: str, why: str) -> Patch:
    return Patch("deepspeed", symbol, why, tuple(map(int, stages)))


PATCHES = (
    Patch("megatron-core", "torch.distributed.get_world_size", "lays its grid over all ranks of the world"),
    Patch(
        "megatron-core",
        "torch.compile",
        "loads torch's compiler for functions without use here (processes.uncompiled)",
    ),
    Patch("megatron-core", "torch.cuda.current_device", "asks a CPU for its CUDA device (platform.prepare_megatron)"),
    _zero("0123", "deepspeed.autotuning.autotuner.has_mlflow", "loads MLflow, over a second of every rank's start"),
    _zero(
        "0123",
        f"{_RUN}.zero.utils.is_zero_supported_optimizer",
        "loads Muon and torch's compiler, two seconds of a start",
    ),
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
    _zero("3", f"{_RUN}.zero.parameter_offload.DeepSpeedZeRoOffload._remove_module_hooks", _FETCHES),
    _zero("3", f"{_ZERO3}._partition_all_parameters", _FETCHES),
    _zero("3", f"{_PARAMETER}.ds_persist", _FETCHES),
    _zero("3", f"{_PARAMETER}.all_gather_coalesced", _FETCHES),
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
    _zero("3", f"{_ZERO3}.ipg_buckets", "keeps a buffer for what is reduced also where one rank has nothing to reduce"),
    _zero("3", f"{_ZERO3}.micro_step_id", "copies the first micro-batch's gradients instead of adding them"),
    _zero("3", f"{_ZERO3}.grad_position", "hides where a parameter lies in the flat partition"),
    _zero("3", f"{_ZERO3}.fp32_partitioned_groups_flat", "hides the partitions that the optimizer steps"),
    _zero("3", f"{_ZERO3}.persistent_parameters", "gathers small parameters before weights are loaded"),
    _zero("1", f"{_BF16}._global_grad_norm", _NORM),
    _zero("12", f"{_ZERO12}._global_grad_norm", _NORM),
    _zero("12", "deepspeed.utils.tensor_fragment.get_lp_grad_fragment", _GRADIENT),
    _zero("3", f"{_ZERO3}.get_local_fp32_grad_for_param", _GRADIENT),
    _zero("3", f"{_ZERO3}._global_grad_norm", _NORM),
    _zero("1", f"{_RUN}.utils.mask_nan_or_inf_with_val_inplace", _MASK),
    _zero("12", f"{_RUN}.zero.stage_1_and_2.mask_nan_or_inf_with_val_inplace", _MASK),
    _zero("1", f"{_BF16}.update_lp_params", _CAST),
    _zero("1", f"{_BF16}.bf16_partitioned_groups", _CAST),
    _zero("1", f"{_BF16}.fp32_groups_flat_partition", _CAST),
    _zero("1", f"{_RUN}.bf16_optimizer.all_gather_dp_groups", _CAST),
    _zero("3", f"{_ZERO3}._reassign_or_swap_out_partitioned_parameters", _CAST),
    _zero("3", f"{_ZERO3}._unflatten_partitioned_parameters", _CAST),
    _zero("3", f"{_ZERO3}.fp16_partitioned_groups_flat", _CAST),
    _zero("3", f"{_ZERO3}.unscale_and_clip_grads", "multiplies all gradients by 1 where nothing is clipped"),
    _zero("3", f"{_ZERO3}.reduce_and_partition_stream", "lets the host wait for the device after each backward pass"),
    _zero("3", f"{_ZERO3}._post_step", "lets the host wait for the device after each step"),
    _zero("3", f"{_ZERO3}.get_grad_norm_direct", "copies every gradient to fp64 for its norm, and lets the host wait"),
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
