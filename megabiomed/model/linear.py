"""The tensor-parallel matrix product under megatron-core's linears, with a backward pass that accumulates in fp32.

megatron-core 0.16.1 can do so only with an extension module that has to be compiled, and never returns an fp32 gradient to
engines that keep theirs with autograd. Communication is as there: with sequence parallelism the input is gathered for each
pass and its gradient reduce-scattered, else the input's gradient is all-reduced, both while the weight's gradient is
multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.kernels.fp8 import forward_product, input_gradient
from megabiomed.kernels.weight_gradient import MainGradient, main_gradient
from megabiomed.processes.megatron_core import (
    ColumnParallelLinear,
    RowParallelLinear,
)


class ColumnLinear(ColumnParallelLinear):
    """A matrix cut by rows; its weight's gradient goes to `MainGradient` where the engine has one."""

    fills_main_grad = True
    fp8 = False

    def _forward_impl(self, input: Tensor, weight: nn.Parameter, *args: Any, **kwargs: Any) -> Tensor:
        return _multiplied(super()._forward_impl, self.fp8, input, weight, *args, **kwargs)


class RowLinear(RowParallelLinear):
    """A matrix cut by columns; see `ColumnLinear`."""

    fills_main_grad = True
    fp8 = False

    def _forward_impl(self, input: Tensor, weight: nn.Parameter, *args: Any, **kwargs: Any) -> Tensor:
        return _multiplied(super()._forward_impl, self.fp8, input, weight, *args, **kwargs)


@contextmanager
def without_fp8(model: nn.Module) -> Iterator[None]:
    """Multiply in the compute type meanwhile, as a comparison of weights with another implementation needs it."""
    changed = [module for module in model.modules() if isinstance(module, (ColumnLinear, RowLinear)) and module.fp8]
    for module in changed:
        module.fp8 = False
    try:
        yield
    finally:
        for module in changed:
            module.fp8 = True


def _multiplied(frozen: Any, fp8: bool, x: Tensor, weight: nn.Parameter, *args: Any, **kwargs: Any) -> Tensor:
    """[., i] -> [t, o]; outside fp8 a frozen weight stays with megatron-core."""
    if not weight.requires_grad and not fp8:
        return cast(Tensor, frozen(x, weight, *args, **kwargs))
    group = kwargs["tp_group"] if kwargs["sequence_parallel"] or kwargs["allreduce_dgrad"] else None
    y = cast(Tensor, _Linear.apply(x, weight, group, kwargs["sequence_parallel"], fp8))
    bias = kwargs["bias"]
    return y if bias is None else y + bias


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: nn.Parameter, group: dist.ProcessGroup | None, sequence: bool, fp8: bool
    ) -> Tensor:
        ctx.save_for_backward(x if weight.requires_grad else None, weight)
        # Neither is saved with the tensors: they change in place, and recomputation would hand back another parameter.
        ctx.main, ctx.parameter = main_gradient(weight), weight
        ctx.group, ctx.sequence = group, sequence
        ctx.fp8 = fp8
        total, _ = _gathered(x, group) if sequence else (x, None)
        return forward_product(total, weight) if fp8 else total @ weight.t()  # [t, o]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        # The input is gathered while dx is multiplied, and dx summed while the weight's gradient is multiplied.
        gathering = _gathered(x, ctx.group, wait=False) if ctx.sequence and x is not None else (x, None)
        dx = input_gradient(dy, weight) if ctx.fp8 else dy @ weight  # [t, i]
        x = _done(*gathering)
        dx, work = _sum_begun(dx, ctx.group, ctx.sequence)
        gradient = None if x is None else _weight_gradient(ctx.main, ctx.parameter, dy.contiguous(), x)
        return _done(dx, work), gradient, None, None, None


def _weight_gradient(main: MainGradient | None, weight: nn.Parameter, dy: Tensor, x: Tensor) -> Tensor | None:
    """dy^T x [o, i] for autograd, or None where it was added to the engine's buffer."""
    if main is None:
        return dy.t() @ x  # [o, i]
    main.add_product(dy, x)
    return None


def _gathered(x: Tensor, group: Any, wait: bool = True) -> tuple[Tensor, dist.Work | None]:
    """([t, i] of all tensor ranks' tokens [t/tp, i], what to wait for)."""
    total = x.new_empty(x.shape[0] * group.size(), *x.shape[1:])  # [t, i]
    work = dist.all_gather_into_tensor(total, x.contiguous(), group=group, async_op=not wait)
    return total, work


def _sum_begun(dx: Tensor, group: Any, sequence: bool) -> tuple[Tensor, dist.Work | None]:
    """Begin the sum of the input's gradient [t, i] over the tensor ranks; [t/tp, i] with sequence parallelism."""
    if group is None:
        return dx, None
    if not sequence:
        return dx, dist.all_reduce(dx, group=group, async_op=True)
    share = dx.new_empty(dx.shape[0] // group.size(), *dx.shape[1:])  # [t/tp, i]
    return share, dist.reduce_scatter_tensor(share, dx, group=group, async_op=True)


def _done(value: Any, work: dist.Work | None) -> Any:
    if work is not None:
        work.wait()
    return value
