"""Matrix products in fp8: both operands rounded to e4m3 on the way, sums in fp32, the result in the compute type.

Scales are dynamic, as in torchao's recipe `rowwise_with_gw_hp`: one for each token of an activation or gradient, but only one
for a weight, so that forward and backward pass multiply by the same rounded weight. Weight gradients are not formed here; they
stay in bf16 with fp32 sums. The product is torch's `_scaled_mm`, which torchao calls too; torchao's casts are made for
`torch.compile`, these take one pass over memory without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.dispatch import Backend, Choice, Site, choose, needs_cpu, needs_triton, serves_all, site_on

LARGEST = 448.0  # of e4m3
SMALLEST = 1e-12  # a row of zeros keeps a finite scale
MULTIPLE = 16  # of both dimensions of a weight, for the tensor cores


class Casts(NamedTuple):
    """Rows with a scale each, and a matrix with one scale, straight or turned."""

    rows: Callable[[Tensor], tuple[Tensor, Tensor]]
    matrix: Callable[[Tensor, Tensor, bool], Tensor]


def forward_product(x: Tensor, weight: Tensor) -> Tensor:
    """x w^T of x [t, i] and w [o, i]: [t, o] in the type of x."""
    casts = _casts(x)
    scale = _scale_of(weight)
    return _multiplied(casts.rows(x), casts.matrix(weight, scale, False), scale, x.dtype)


def input_gradient(dy: Tensor, weight: Tensor) -> Tensor:
    """dy w of dy [t, o] and w [o, i]: [t, i] in the type of dy."""
    casts = _casts(dy)
    scale = _scale_of(weight)
    return _multiplied(casts.rows(dy), casts.matrix(weight, scale, True), scale, dy.dtype)


def _multiplied(rows: tuple[Tensor, Tensor], weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """[m, k] times the transpose of [n, k], with their scales: [m, n]."""
    x, scales = rows
    if x.device.type == "cpu":  # torch multiplies fp8 rows with scales of their own on GPUs alone
        return ((x.float() @ weight.float().t()) * (scales * scale)).to(dtype)
    columns = scale.expand(1, weight.size(0)).contiguous()
    return torch._scaled_mm(x, weight.t(), scale_a=scales, scale_b=columns, out_dtype=dtype, use_fast_accum=True)


def _scale_of(weight: Tensor) -> Tensor:
    """One fp32, in one pass: max |w| / 448."""
    return torch.linalg.vector_norm(weight.detach(), float("inf"), dtype=torch.float32).clamp(min=SMALLEST) / LARGEST


def cast_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """[m, n] as e4m3 [m, n] and the scale of each row, fp32 [m, 1]."""
    scale = x.abs().amax(1, keepdim=True).float().clamp(min=SMALLEST) / LARGEST
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scale


def cast_matrix(weight: Tensor, scale: Tensor, turned: bool) -> Tensor:
    """[m, n] / scale as e4m3 [m, n], or [n, m] where it is turned."""
    y = (weight.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
    return y.t().contiguous() if turned else y


def _load_triton() -> Casts:
    from megabiomed.kernels.triton import fp8

    return Casts(fp8.cast_rows, fp8.cast_matrix)


BACKENDS = (
    Backend("cpu", needs_cpu, lambda: Casts(cast_rows, cast_matrix), "emulated: slower than without fp8"),
    Backend("triton", needs_triton, _load_triton, "one pass over memory"),
    Backend("torch", serves_all, lambda: Casts(cast_rows, cast_matrix), "several passes"),
)


def choice(site: Site) -> Choice:
    """The casts that serve a site, and why."""
    return choose("fp8", BACKENDS, site)


def _casts(x: Tensor) -> Casts:
    found: Casts = choice(site_on(x.device, x.dtype, x.size(-1))).function
    return found


def require(device: torch.device) -> None:
    """Refuse a device without fp8 tensor cores; a CPU emulates them.

    Raises:
        ConfigError: a GPU before sm_89.
    """
    check_arch(site(device))


def site(device: torch.device) -> Site:
    """Where the products of a run happen."""
    return site_on(device, torch.bfloat16, 0)


def check_arch(site: Site) -> None:
    """See `require`."""
    if site.device == "cuda" and site.arch < 89:
        raise ConfigError(
            "this GPU cannot multiply in fp8",
            got=f"sm_{site.arch}",
            expected="sm_89 or later",
            do="set train.precision=bf16",
        )


def check_sizes(name: str, outputs: int, inputs: int) -> None:
    """Refuse a weight whose dimensions on this rank the tensor cores do not take.

    Raises:
        ConfigError: one is not a multiple of 16.
    """
    if outputs % MULTIPLE or inputs % MULTIPLE:
        raise ConfigError(
            f"{name} cannot be multiplied in fp8",
            got=f"[{outputs}, {inputs}] on each tensor rank",
            expected=f"multiples of {MULTIPLE}",
            do="set train.precision=bf16 or a smaller parallel.tensor_parallel_size",
        )
