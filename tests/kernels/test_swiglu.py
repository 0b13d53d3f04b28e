"""SwiGLU against the fp64 definition."""

from __future__ import annotations

import pytest
import torch
from support.precision import assert_close

from megabiomed.kernels.swiglu import reference, swiglu

BACKENDS = ["cpu", "triton", "torch"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), [(1, 16), (9, 300), (5, 1100)])
def test_forward_and_gradient_match_fp64(
    backend: str, dtype: torch.dtype, rows: int, n: int, device: torch.device
) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    torch.manual_seed(0)
    wide = (torch.randn(2 * n, rows, device=device) * 3).to(dtype)
    ours = wide.t().detach().requires_grad_()  # not contiguous
    exact = ours.detach().double().requires_grad_()
    seed = torch.randn(rows, n, device=device).to(dtype)
    out, truth = swiglu(ours, backend=backend), reference(exact)
    out.backward(seed)
    truth.backward(seed.double())
    assert out.dtype == dtype
    assert_close(out, truth, dtype)
    assert_close(ours.grad, exact.grad, dtype)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradcheck_of_the_wrapper(backend: str) -> None:
    pytest.importorskip("triton")
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("fp64 runs in the interpreter only")
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: swiglu(x, backend=backend), (x,), fast_mode=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_gates_stay_finite(backend: str, device: torch.device) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    x = torch.tensor([[-200.0, 200.0, 1.0, 1.0]], device=device, requires_grad=True)
    out = swiglu(x, backend=backend)
    out.sum().backward()
    assert out.tolist() == [[0.0, 200.0]]
    assert torch.isfinite(x.grad).all()
