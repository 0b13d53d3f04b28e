"""Weight gradients that accumulate in the matrix product, on a GPU: exactness, memory, time.

python tests/bench/gpu_gradient_check.py OUTPUT.json

For each matrix of a 7B model (8,192 tokens, bf16): the relative error of the accumulated gradient against fp64, the bytes that
one product allocates beside its operands, and the milliseconds of one accumulation, of one that overwrites, and of the
rounded product with its cast and addition. A few seconds; exits with 1 where a bound is missed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megabiomed.kernels.weight_gradient import accumulate, accumulate_rounded

TOKENS = 8192
MATRICES = {
    "qkv": (12288, 4096),
    "o": (4096, 4096),
    "gate_up": (22016, 4096),
    "down": (4096, 11008),
    "head": (32000, 4096),
}
BOUND = 2e-5
"""Relative error in the Frobenius norm that a sum of two products stays under. Tensor cores truncate where they add: 9e-6 for
8,192 tokens on an H100; a gradient rounded to bf16 has 1.7e-3."""
ROWS = 256
"""Rows of a gradient that are compared with fp64."""


def main() -> int:
    """Measure every matrix in turn; one that fails does not keep the others from being measured."""
    results = []
    for name, shape in MATRICES.items():
        try:
            result = measured(*shape)
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"}
        results.append({"matrix": name, "shape": list(shape), **result})
        print(json.dumps(results[-1]), flush=True)
    Path(sys.argv[1]).write_text(json.dumps({"torch": torch.__version__, "matrices": results}, indent=1))
    return 0 if all(good(result) for result in results) else 1


def good(result: dict[str, Any]) -> bool:
    """Whether a matrix keeps the bounds: fp32 sums and no temporary."""
    return "failed" not in result and result["relative error"] < BOUND and result["extra bytes"] == 0


def measured(outputs: int, inputs: int, tokens: int = TOKENS, device: str = "cuda") -> dict[str, Any]:
    """Error, memory and time of a gradient [outputs, inputs] of two micro-batches."""
    torch.manual_seed(0)
    dy, x = (torch.randn(tokens, width, device=device, dtype=torch.bfloat16) for width in (outputs, inputs))
    main = torch.full((outputs, inputs), float("nan"), device=device)  # the overwriting product must not read it
    accumulate(main, dy, x, overwrite=True)
    accumulate(main, dy, x)
    exact = 2 * dy[:, :ROWS].double().t() @ x.double()  # [rows, i]
    error = float((main[:ROWS].double() - exact).norm() / exact.norm())
    rounded = main.clone()
    return {
        "relative error": error,
        "extra bytes": extra_bytes(lambda: accumulate(main, dy, x)),
        "accumulate ms": milliseconds(lambda: accumulate(main, dy, x)),
        "overwrite ms": milliseconds(lambda: accumulate(main, dy, x, overwrite=True)),
        "rounded ms": milliseconds(lambda: accumulate_rounded(rounded, dy, x)),
        "product ms": milliseconds(lambda: dy.t() @ x),
        "bf16 product, fp32 cast, addition ms": milliseconds(lambda: rounded.add_((dy.t() @ x).to(torch.float32))),
    }


def extra_bytes(step: Callable[[], object]) -> int:
    """The most bytes that a call held beside what was there before; the workspace of cuBLAS exists by then."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def milliseconds(step: Callable[[], Tensor | None], repeats: int = 10) -> float | None:
    """Median time of a call on the device; None where there is no device."""
    if not torch.cuda.is_available():
        return None
    times = []
    for number in range(repeats + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        if number >= 2:
            times.append(start.elapsed_time(end))
    return round(sorted(times)[len(times) // 2], 4)


if __name__ == "__main__":
    sys.exit(main())
