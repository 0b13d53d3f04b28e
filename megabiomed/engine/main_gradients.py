"""The fp32 gradient buffers of an engine, handed to the layers that add to them (kernels/weight_gradient.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from megabiomed.kernels.weight_gradient import PRODUCTS, MainGradient, main_gradient


class MainGradients:
    """All `MainGradient`s of an engine. Without any, every method does nothing."""

    def __init__(self) -> None:
        self.held: list[MainGradient] = []

    def attach(self, weight: nn.Parameter, value: Tensor, product: str) -> None:
        """Let the layers add the gradient of a weight [o, i] to `value` [o, i]."""
        main = MainGradient(value, PRODUCTS[product])
        weight.main_grad = main
        self.held.append(main)

    def begin_step(self) -> None:
        """Before the first forward pass of a step."""
        for main in self.held:
            main.begin_step()

    def finish_step(self) -> None:
        """After the last backward pass of a step, before gradients are read."""
        for main in self.held:
            main.finish_step()


def fillable(stage: nn.Module) -> set[nn.Parameter]:
    """Trained weights whose layers add to `main_grad`; such a module says `fills_main_grad`."""
    weights = (module.weight for module in stage.modules() if getattr(module, "fills_main_grad", False))
    return {weight for weight in weights if isinstance(weight, nn.Parameter) and weight.requires_grad}


def zero1_bf16(optimizer: Any, stage: nn.Module, product: str) -> MainGradients:
    """Products accumulate in the flat fp32 buffers of DeepSpeed's BF16_Optimizer, which is never filled with zeros for them.

    DeepSpeed learns of a gradient only through its hooks, and leaves one that it does not know of out of the norm and of
    clipping. Its two fills of the whole buffer per step are replaced by marking it as fresh.
    """
    gradients, weights = MainGradients(), fillable(stage)
    others: list[Tensor] = []
    for parameters, values in zip(optimizer.bf16_groups, optimizer.fp32_groups_gradients):
        for parameter, value in zip(parameters, values):
            if parameter in weights:
                gradients.attach(parameter, value.view(parameter.shape), product)
            else:
                others.append(value)

    def clear_hp_grads() -> None:
        gradients.begin_step()
        for value in others:
            value.zero_()
        optimizer.fp32_groups_has_gradients = [
            [main_gradient(parameter) is not None for parameter in group] for group in optimizer.bf16_groups
        ]

    optimizer.clear_hp_grads = clear_hp_grads
    optimizer._update_hp_grad = _after_a_begin(optimizer._update_hp_grad)
    clear_hp_grads()
    return gradients


def _after_a_begin(update: Callable[..., None]) -> Callable[..., None]:
    """DeepSpeed's hook adds to the buffer, which for a gradient that came through autograd must hold this step's sum."""

    def update_hp_grad(parameter: nn.Parameter, *args: Any, **kwargs: Any) -> None:
        main = main_gradient(parameter)
        if main is not None and parameter.grad is not None:
            main.finish_step()
        update(parameter, *args, **kwargs)

    return update_hp_grad
