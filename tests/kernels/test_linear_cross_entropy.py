"""The output head and its loss against the fp64 definition, on one rank and over tensor ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.precision import assert_close, error
from support.spawn import run_ranks

from megabiomed.kernels.linear_cross_entropy import IGNORE_INDEX, Shard, linear_cross_entropy, reference
from megabiomed.kernels.weight_gradient import MainGradient, accumulate

BACKENDS = ["cpu", "triton", "torch"]
WORKER = Path(__file__).with_name("loss_worker.py")


def problem(dtype: torch.dtype, device: torch.device, vocabulary: int = 300) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    hidden, weight = torch.randn(23, 64, device=device).to(dtype), torch.randn(vocabulary, 64, device=device).to(dtype)
    labels = torch.randint(0, vocabulary, (23,), device=device)
    labels[3:7] = IGNORE_INDEX
    return hidden.requires_grad_(), (weight / 4).requires_grad_(), labels


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("chunk", "z_loss"), [(None, 0.0), (5, 0.0), (8, 1e-2)])
@pytest.mark.parametrize(("scale", "factor"), [(1.0, 0.3), (0.3, 1.0), (0.5, 0.6)])
def test_loss_and_gradients_match_fp64_wherever_the_scale_is_applied(
    backend: str,
    dtype: torch.dtype,
    chunk: int | None,
    z_loss: float,
    scale: float,
    factor: float,
    device: torch.device,
) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    hidden, weight, labels = problem(dtype, device)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    loss = linear_cross_entropy(hidden, weight, labels, z_loss=z_loss, scale=scale, chunk_tokens=chunk, backend=backend)
    truth = scale * reference(*exact, labels, z_loss)
    (loss * factor).backward()
    (truth * factor).backward()
    assert loss.dtype == torch.float32
    assert error(loss, truth) <= (1e-6 if dtype == torch.float32 else 2e-3)
    for got, want in zip((hidden, weight), exact):
        assert got.grad is not None
        assert got.grad.dtype == dtype
        assert_close(got.grad, want.grad, dtype)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_gradcheck_of_the_wrapper(backend: str) -> None:
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("fp64 runs in the interpreter only")
    hidden, weight, labels = problem(torch.float64, torch.device("cpu"), vocabulary=40)
    assert torch.autograd.gradcheck(
        lambda *a: linear_cross_entropy(*a, labels, z_loss=0.1, chunk_tokens=8, backend=backend).double(),
        (hidden, weight),
        eps=1e-4,
        atol=1e-2,
        rtol=1e-3,  # the loss itself is fp32
        fast_mode=True,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_any_target_loss_and_gradients_are_zero(backend: str, device: torch.device) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    hidden, weight, labels = problem(torch.float32, device)
    loss = linear_cross_entropy(hidden, weight, labels.fill_(IGNORE_INDEX), backend=backend)
    loss.backward()
    assert loss.item() == 0.0
    assert hidden.grad.eq(0).all()
    assert weight.grad.eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_rows_take_no_part(backend: str, device: torch.device) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    hidden, weight, labels = problem(torch.float32, device)
    padded = torch.cat((weight.detach(), torch.full((20, 64), 50.0, device=device))).requires_grad_()
    loss = linear_cross_entropy(hidden, padded, labels, Shard(0, 300), backend=backend)
    loss.backward()
    assert_close(loss, reference(hidden.detach(), weight.detach(), labels), torch.float32)
    assert padded.grad[300:].eq(0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_factor_of_one_leaves_the_gradients_untouched(backend: str, device: torch.device) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    found = []
    for factor in (1.0, 2.0):  # a power of two changes no mantissa
        hidden, weight, labels = problem(torch.bfloat16, device)
        (factor * linear_cross_entropy(hidden, weight, labels, scale=0.3, backend=backend)).backward()
        found.append((hidden.grad, weight.grad))
    for once, twice in zip(*found):
        assert torch.equal(once * 2, twice)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padding", [0, 20])
def test_products_of_chunks_add_to_the_main_gradient_in_fp32(backend: str, padding: int, device: torch.device) -> None:
    if backend == "cpu" and device.type != "cpu":
        pytest.skip("a CPU path")
    hidden, weight, labels = problem(torch.bfloat16, device)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    whole = torch.cat((weight.detach(), weight.detach()[:padding])).requires_grad_()
    whole.main_grad = main = MainGradient(torch.full(whole.shape, float("nan"), device=device), accumulate)
    main.begin_step()
    for scale in (0.3, 0.7):  # two micro-batches
        options = {"scale": scale, "chunk_tokens": 5, "backend": backend}
        linear_cross_entropy(hidden, whole, labels, Shard(0, 300), **options).backward()
        (scale * reference(*exact, labels)).backward()
    assert whole.grad is None
    assert main.value[300:].eq(0).all()
    assert_close(main.value[:300], exact[1].grad, torch.bfloat16)
    assert_close(hidden.grad, exact[0].grad, torch.bfloat16)


def test_the_main_gradient_is_left_alone_where_backward_may_not_come_or_brings_a_factor() -> None:
    hidden, weight, labels = problem(torch.float32, torch.device("cpu"))
    weight.main_grad = MainGradient(torch.zeros_like(weight), accumulate)
    with torch.no_grad():
        linear_cross_entropy(hidden, weight, labels, scale=0.5)
    linear_cross_entropy(hidden, weight, labels).backward()  # without a scale autograd carries the gradient
    assert weight.main_grad.value.eq(0).all()
    assert weight.grad is not None
    with pytest.raises(RuntimeError, match="expected 1; pass it as `scale`"):
        (2 * linear_cross_entropy(hidden, weight, labels, scale=0.5)).backward()


def test_extreme_logits_stay_finite(device: torch.device) -> None:
    hidden = torch.tensor([[400.0], [-400.0]], device=device, requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], device=device, requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 0], device=device), backend="triton")
    loss.backward()
    assert loss.item() == 800.0
    assert torch.isfinite(hidden.grad).all()


def test_a_frozen_head_gets_no_gradient_and_evaluation_makes_none() -> None:
    hidden, weight, labels = problem(torch.float32, torch.device("cpu"))
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, labels).backward()
    assert weight.grad is None
    assert hidden.grad is not None
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, labels).requires_grad


@pytest.mark.timeout(120)
@pytest.mark.parametrize("world", [2, 3])
def test_tensor_ranks_equal_one(world: int, tmp_path: Path) -> None:
    """Partial gradients sum to the whole; at 3 ranks a vocabulary of 4 leaves the last rank without rows."""
    run_ranks(world, [str(WORKER), str(tmp_path)], tmp_path / "logs", timeout_s=100)
