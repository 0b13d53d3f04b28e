"""The fp32 gradient buffers of an engine, handed to the layers that add to them (kernels/weight_gradient.py)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from megabiomed.engine.scattered import Reducer, ScatteredGradient
from megabiomed.kernels.weight_gradient import PRODUCTS, MainGradient, main_gradient
from megabiomed.model.linear import ColumnLinear, RowLinear


class MainGradients:
    """All `MainGradient`s of an engine. Without any, every method does nothing.

    Args:
        reducer: sums the gradients over the shards as they come, where the engine holds only a part of each.
    """

    def __init__(self, reducer: Reducer | None = None) -> None:
        self.held: list[MainGradient] = []
        self.hooked: list[Tensor] = []
        """Buffers of the other gradients, to which the engine's hooks add."""
        self.reducer = reducer

    def attach(self, weight: nn.Parameter, main: MainGradient) -> None:
        """Let the layers add the gradient of a weight."""
        weight.main_grad = main
        self.held.append(main)

    def begin_step(self) -> None:
        """Before the first forward pass of a step. What products overwrite is not filled."""
        for main in self.held:
            main.begin_step()
        for value in self.hooked:
            value.zero_()

    def finish_step(self) -> None:
        """After the last backward pass of a step, before gradients are read."""
        if self.reducer is not None:
            self.reducer.wait()
        for main in self.held:
            main.finish_step()


def fillable(stage: nn.Module, once: bool = False) -> set[nn.Parameter]:
    """Trained weights whose layers add to `main_grad`; such a module says `fills_main_grad`.

    Args:
        once: only those that add one product per micro-batch.
    """
    modules = (module for module in stage.modules() if getattr(module, "fills_main_grad", False))
    weights = (module.weight for module in modules if not once or isinstance(module, ColumnLinear | RowLinear))
    return {weight for weight in weights if isinstance(weight, nn.Parameter) and weight.requires_grad}


def zero1_bf16(optimizer: Any, stage: nn.Module, product: str) -> MainGradients:
    """Products accumulate in the flat fp32 buffers of DeepSpeed's BF16_Optimizer, which is never filled with zeros for them.

    DeepSpeed learns of a gradient only through its hooks, and leaves one that it does not know of out of the norm and of
    clipping. Its two fills of the whole buffer per step are replaced by marking it as fresh.
    """
    gradients, weights = MainGradients(), fillable(stage)
    for parameters, values in zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients):
        for parameter, value in zip(parameters, values):
            if parameter in weights:
                gradients.attach(parameter, MainGradient(value.view(parameter.shape), PRODUCTS[product]))
            else:
                gradients.hooked.append(value)

    def clear_hp_grads() -> None:
        # Without these flags the norm misses every linear matrix: 69 % of it on the parity problem.
        optimizer.fp32_groups_has_gradients = [
            [main_gradient(parameter) is not None for parameter in group] for group in optimizer.bf16_groups
        ]

    optimizer.clear_hp_grads = clear_hp_grads
    optimizer._update_hp_grad = _after_a_begin(optimizer._update_hp_grad)
    clear_hp_grads()
    return gradients


def zero3_bf16(optimizer: Any, stage: nn.Module, product: str, shards: dist.ProcessGroup) -> MainGradients:
    """Products accumulate in ZeRO-3's fp32 partitions: at once where one rank holds all, else through a reduce-scatter each.

    DeepSpeed's own way copies every gradient into a bucket, divides, concatenates and scatters it. Gradients of parameters
    that are small or have another way into their gradient stay with it.
    """
    gradients = MainGradients(Reducer(shards) if shards.size() > 1 else None)
    weights = fillable(stage, once=shards.size() > 1)
    # A private, name-mangled attribute: there is no public way to the partition of a parameter.
    partitions = optimizer._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition
    for parameter in (parameter for group in optimizer.fp16_groups for parameter in group):
        partition = partitions[parameter.ds_id]
        if parameter not in weights:
            gradients.hooked.append(partition)
        elif gradients.reducer is None:
            # One rank holds all of it: the partition without its padding is the gradient itself.
            whole = partition[: parameter.ds_numel].view(parameter.ds_shape)  # [o, i]
            gradients.attach(parameter, MainGradient(whole, PRODUCTS[product]))
        else:
            shape = tuple(parameter.ds_shape)
            gradients.attach(parameter, ScatteredGradient(partition, shape, PRODUCTS[product], gradients.reducer))
    add = optimizer.reduce_ready_partitions_and_remove_grads
    if gradients.reducer is None:
        add = partial(_add_whole, partitions)
        for bucket in optimizer.ipg_buckets.values():
            bucket.clear()  # up to 2 GB that nothing goes through
    reduce = _after_a_begin(add)
    # A layer that added its product itself leaves `grad` None, on which DeepSpeed's reduction would fail.
    optimizer.reduce_ready_partitions_and_remove_grads = lambda p: None if p.grad is None else reduce(p)
    return gradients


def _add_whole(partitions: dict[int, Tensor], parameter: nn.Parameter) -> None:
    """One rank has nothing to reduce: past DeepSpeed's bucket, which copies, divides and concatenates all the same."""
    assert parameter.grad is not None
    partitions[parameter.ds_id][: parameter.ds_numel].add_(parameter.grad.reshape(-1))
    parameter.grad = None


def _after_a_begin(update: Callable[..., None]) -> Callable[..., None]:
    """DeepSpeed's hook adds to the buffer, which for a gradient that came through autograd must hold this step's sum."""

    def update_hp_grad(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> None:
        main = main_gradient(parameter)
        if main is not None and parameter.grad is not None:
            main.finish_step()
        update(parameter, *args, **kwargs)

    return update_hp_grad
