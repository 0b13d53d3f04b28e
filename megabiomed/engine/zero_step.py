"""What DeepSpeed's steps do around the optimizer, left to an optimizer that clips and casts in its own pass.

DeepSpeed is told not to clip (`gradient_clipping: 0`) and computes the norm all the same. `patches` lists what is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.config.grid import Span
from megabiomed.engine.mesh import Mesh
from megabiomed.processes import platform


def before(optimizer: Any, act: Callable[[], None]) -> None:
    """Do something when the gradients are reduced, before DeepSpeed's optimizer uses them or drops what is not finite."""
    step = optimizer.step

    def step_after(*args: Any, **kwargs: Any) -> Any:
        act()
        return step(*args, **kwargs)

    optimizer.step = step_after


def norm(optimizer: Any) -> Tensor:
    """The global norm that DeepSpeed has just computed, fp32 or fp64, on the device; negative for an overflow."""
    return torch.as_tensor(optimizer._global_grad_norm, device=platform.device())


def inverts(optimizer: Any) -> bool:
    """Whether DeepSpeed would have divided by the norm's excess, as in ZeRO-2 and 3 and in fp32, instead of multiplying."""
    return not _in_bf16_optimizer(optimizer)


def leave_to_optimizer(optimizer: Any) -> dict[Tensor, Tensor]:
    """Switch DeepSpeed's own passes off, in this instance.

    Returns:
        By master, the flat part of the compute weights that the optimizer now has to write. None under ZeRO-2 and in fp32,
        where DeepSpeed's step copies in its own body.
    """
    if _in_bf16_optimizer(optimizer):
        optimizer.update_lp_params = partial(_gather, optimizer)
        ranks = (dist.get_rank(group) for group in optimizer.real_dp_process_group)
        mine = [parts[rank] for parts, rank in zip(optimizer.bf16_partitioned_groups, ranks, strict=True)]
        return dict(zip(optimizer.fp32_groups_flat_partition, mine, strict=True))
    if not hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return {}
    optimizer.unscale_and_clip_grads = lambda group, norm: None
    optimizer._reassign_or_swap_out_partitioned_parameters = optimizer._unflatten_partitioned_parameters
    optimizer._prepare_fp32_grad_for_sub_group = partial(_prepare, optimizer)
    pairs = zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat, strict=True)
    return {master: copy for master, copy in pairs if master is not copy}  # in fp32 the weights are the masters


def norms_in_one_pass(optimizer: Any, mesh: Mesh) -> None:
    """ZeRO-3: read every gradient once for the norm, in fp32, and let the host wait for nothing on the way.

    DeepSpeed copies each to fp64 first: 20 bytes of traffic per element instead of 4. And it copies a number from the host to
    the device for each group of parameters. The sum over the gradients is in fp64 here too.
    """
    from deepspeed.runtime.utils import is_model_parallel_parameter

    def get_grad_norm_direct(gradients: list[Tensor], params: list[nn.Parameter], *_: Any, **__: Any) -> Tensor:
        norms = torch._foreach_norm(gradients)
        first = mesh.coordinate("model") == 0
        counted = [n for n, p in zip(norms, params, strict=True) if first or is_model_parallel_parameter(p)]
        total = norms[0].new_zeros((), dtype=torch.float64)
        if counted:
            total = torch.stack(counted).double().pow(2.0).sum()
        for span in _SPANS:
            if mesh.size(span) > 1:
                dist.all_reduce(total, group=mesh.group(span))
        norm = total**0.5
        return norm.masked_fill(~norm.isfinite(), -1.0)

    optimizer.get_grad_norm_direct = get_grad_norm_direct


_SPANS: tuple[Span, ...] = ("shards", "model")


def reduce_behind_the_host(optimizer: Any) -> None:
    """ZeRO-3 on a GPU: after a backward pass the computing stream waits for the reducing one, and the host for neither."""
    if platform.has_cuda() and optimizer.reduce_and_partition_stream is not None:
        optimizer.reduce_and_partition_stream = _OrderedStream()


class _OrderedStream(torch.cuda.Stream):
    def synchronize(self) -> None:
        torch.cuda.current_stream().wait_stream(self)


def _in_bf16_optimizer(optimizer: Any) -> bool:
    return hasattr(optimizer, "bf16_partitioned_groups")


def _gather(optimizer: Any) -> None:
    """ZeRO-1: `update_lp_params` without its copy."""
    from deepspeed.runtime.bf16_optimizer import all_gather_dp_groups

    all_gather_dp_groups(
        groups_flat=optimizer.bf16_groups_flat,
        partitioned_param_groups=optimizer.bf16_partitioned_groups,
        dp_process_group=optimizer.real_dp_process_group,
        start_alignment_factor=optimizer.nccl_start_alignment_factor,
        allgather_bucket_size=optimizer.allgather_bucket_size,
    )


def _prepare(optimizer: Any, group: int) -> None:
    """ZeRO-3: the gradient of a group is its part of the buffer that all gradients lie in, in the same order."""
    sizes = [master.numel() for master in optimizer.fp32_partitioned_groups_flat]
    gradients = optimizer.grad_partitions_flat_buffer.narrow(0, sum(sizes[:group]), sizes[group])
    optimizer.fp32_partitioned_groups_flat[group].grad = gradients
    optimizer.averaged_gradients[group] = None
