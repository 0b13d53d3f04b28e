"""A weight gradient is the fp32 sum of its products, whatever its buffer held before."""

from __future__ import annotations

import torch

from megabiomed.kernels.weight_gradient import MainGradient, accumulate, accumulate_rounded, main_gradient

TOKENS, MICRO_BATCHES = 512, 16
OUTPUTS, INPUTS = 48, 40


def micro_batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    sizes = (OUTPUTS, INPUTS)
    return [
        (torch.randn(TOKENS, sizes[0]).bfloat16(), torch.randn(TOKENS, sizes[1]).bfloat16())
        for _ in range(MICRO_BATCHES)
    ]


def error(product: object) -> float:
    """Relative error against fp64 of a step's gradient in a buffer that begins with NaN."""
    main = MainGradient(torch.full((OUTPUTS, INPUTS), float("nan")), product)  # type: ignore[arg-type]
    main.begin_step()
    exact = torch.zeros(OUTPUTS, INPUTS, dtype=torch.float64)
    for dy, x in micro_batches():
        main.add_product(dy, x)
        exact += dy.double().t() @ x.double()
    return float((main.value - exact).norm() / exact.norm())


def test_sums_are_those_of_fp32() -> None:
    assert error(accumulate) < 1e-6


def test_rounded_products_are_worse_by_three_orders() -> None:
    assert 5e-4 < error(accumulate_rounded) < 5e-3


def test_a_weight_that_no_micro_batch_used_has_the_gradient_zero() -> None:
    main = MainGradient(torch.full((2, 2), float("nan")), accumulate)
    main.begin_step()
    main.finish_step()
    assert not main.value.any()


def test_a_weight_of_an_engine_without_buffers_has_none() -> None:
    assert main_gradient(torch.zeros(2)) is None
