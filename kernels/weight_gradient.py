"""Weight gradients that accumulate inside the matrix product, in fp32, in the buffer that the optimizer reads.

Left to autograd, the gradient of a bf16 weight [o, i] is a product rounded to bf16, cast to fp32 and added by a hook: 20
bytes of traffic per element and micro-batch, and a relative error of about 2e-3. Here the product adds to the fp32 buffer
itself: 8 bytes, and the error of fp32 sums.

The seam between engines and layers is one attribute: an engine that owns fp32 buffers sets `weight.main_grad` to a
`MainGradient`, and a layer whose backward pass finds one adds its product there and returns None to autograd. A layer that
finds none returns the gradient as usual.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Product(Protocol):
    """How dy^T x of dy [t, o] and x [t, i] gets into an fp32 matrix [o, i]."""

    def __call__(self, main: Tensor, dy: Tensor, x: Tensor, overwrite: bool) -> None:
        """main = dy^T x where `overwrite` is set, main += dy^T x else."""


class MainGradient:
    """The fp32 gradient of one weight over all micro-batches of a step.

    Attributes:
        value: [o, i] fp32, contiguous, a view of the engine's flat buffer.
        fresh: the buffer still holds something else than this step's gradient, so the first contribution overwrites it.
    """

    def __init__(self, value: Tensor, product: Product) -> None:
        self.value, self.fresh = value, False
        self._product = product

    def add_product(self, dy: Tensor, x: Tensor) -> None:
        """Add dy^T x of dy [t, o] and x [t, i], both in the compute type; may be called several times per micro-batch."""
        self._product(self.value, dy, x, self.fresh)
        self.fresh = False

    def begin_step(self) -> None:
        """Forget the step before; nothing is written until the first contribution."""
        self.fresh = True

    def finish_step(self) -> None:
        """Before the gradient is read: a weight that no micro-batch used has the gradient 0."""
        if self.fresh:
            self.value.zero_()
            self.fresh = False


def main_gradient(weight: Tensor) -> MainGradient | None:
    """The buffer that a weight's gradient accumulates in; None where autograd carries the gradient."""
    found: MainGradient | None = getattr(weight, "main_grad", None)
    return found


def accumulate(main: Tensor, dy: Tensor, x: Tensor, overwrite: bool = False) -> None:
    """One matrix product with fp32 sums: main += dy^T x, or main = dy^T x.

    On a GPU cuBLAS reads bf16 and accumulates into the fp32 matrix; nothing of the size [o, i] is allocated. A CPU
    multiplies in fp32.

    Args:
        main: [o, i] fp32, contiguous.
        dy: [t, o] in bf16 or fp32.
        x: [t, i] in the same type.
    """
    a, b = dy.t(), x  # [o, t], [t, i]
    if main.device.type == "cpu" or dy.dtype == torch.float32:
        main.addmm_(a.float(), b.float(), beta=0 if overwrite else 1)
    elif overwrite:
        torch.mm(a, b, out_dtype=torch.float32, out=main)
    else:
        # In place only if input and out are one and the same object; two views of one memory cost a copy first.
        torch.addmm(main, a, b, out_dtype=torch.float32, out=main)


def accumulate_rounded(main: Tensor, dy: Tensor, x: Tensor, overwrite: bool = False) -> None:
    """As `accumulate`, but with each product rounded to the compute type first: the bits that autograd's hooks give."""
    product = dy.t() @ x  # [o, i]
    if overwrite:
        main.copy_(product)
    else:
        main.add_(product)


PRODUCTS: dict[str, Product] = {"auto": accumulate, "bits": accumulate_rounded}
"""By `kernels.weight_gradient`; `hook` has none."""
