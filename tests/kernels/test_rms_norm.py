"""RMSNorm with and without residual against the fp64 definition."""

from __future__ import annotations

import pytest
import torch
from support.precision import assert_close

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.rms_norm import add_reference, add_rms_norm, reference, rms_norm

EPS = 1e-5
BACKENDS = ["cpu", "triton", "torch"]


def tensors(dtype: torch.dtype, device: torch.device, rows: int, n: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, device=device).to(dtype) for shape in ((rows, n), (rows, n), (n,), (rows, n), (rows, n))]


def leaves(tensors: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    return [x.detach().to(dtype).requires_grad_() for x in tensors]


def usable(backend: str, device: torch.device) -> str:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    return backend


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "n"), [(1, 96), (33, 256), (7, 1000)])
def test_the_fused_add_and_its_gradients_match_fp64(
    backend: str, dtype: torch.dtype, rows: int, n: int, device: torch.device
) -> None:
    x, residual, weight, dy, ds = tensors(dtype, device, rows, n)
    ours = leaves([x, residual, weight], dtype)
    y, stream = add_rms_norm(*ours, EPS, backend=usable(backend, device))
    torch.autograd.backward([y, stream], [dy, ds])
    exact = leaves([x, residual, weight], torch.float64)
    truth, stream_truth = add_reference(*exact, EPS)
    torch.autograd.backward([truth, stream_truth], [dy.double(), ds.double()])
    assert y.dtype == stream.dtype == dtype
    assert_close(y, truth, dtype, "y")
    assert_close(stream, stream_truth, dtype, "stream")
    for name, a, b in zip(("dx", "dresidual", "dweight"), ours, exact):
        assert_close(a.grad, b.grad, dtype, name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_alone_takes_any_stride_and_shape(backend: str, dtype: torch.dtype, device: torch.device) -> None:
    x, _, _, dy, _ = tensors(dtype, device, 24, 80)
    x, dy = x.view(4, 6, 80).transpose(0, 1), dy.view(6, 4, 80)
    weight = torch.randn(80, device=device).to(dtype)
    ours, exact = leaves([x, weight], dtype), leaves([x, weight], torch.float64)
    assert not ours[0].is_contiguous()
    y, truth = rms_norm(*ours, EPS, backend=usable(backend, device)), reference(*exact, EPS)
    y.backward(dy)
    truth.backward(dy.double())
    assert_close(y, truth, dtype, "y")
    for a, b in zip(ours, exact):
        assert_close(a.grad, b.grad, dtype, "gradient")


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradcheck_of_the_wrappers(backend: str) -> None:
    pytest.importorskip("triton")
    if backend == "triton" and torch.cuda.is_available():
        pytest.skip("fp64 runs in the interpreter only")
    torch.manual_seed(0)
    x, residual = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: rms_norm(*a, EPS, backend=backend), (x, weight), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *a: add_rms_norm(*a, EPS, backend=backend), (x, residual, weight), fast_mode=True
    )


def test_a_row_of_zeros_gives_zeros_and_finite_gradients(device: torch.device) -> None:
    x = torch.zeros(2, 64, device=device, requires_grad=True)
    y = rms_norm(x, torch.ones(64, device=device), EPS, backend="triton")
    y.backward(torch.ones_like(y))
    assert y.eq(0).all()
    assert torch.isfinite(x.grad).all()


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown backend in kernels\.norm: got apex"):
        rms_norm(torch.ones(2, 4), torch.ones(4), EPS, backend="apex")
