"""Products in fp8 against fp64, and the casts of Triton against those of torch."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels import fp8
from megabiomed.kernels.dispatch import Site

BF16 = torch.bfloat16


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize(("t", "o", "i"), [(1, 16, 32), (33, 80, 176), (70, 48, 64)])
def test_both_products_are_within_the_rounding_of_e4m3(t: int, o: int, i: int) -> None:
    """Three bits of mantissa: operands are off by 2.6 % each, rms, whatever their scale."""
    torch.manual_seed(0)
    x, weight = torch.randn(t, i).to(BF16), (torch.randn(o, i) * 0.02).to(BF16)
    dy = (torch.randn(t, o) * 1e-7).to(BF16)  # as small as gradients are
    y, dx = fp8.forward_product(x, weight), fp8.input_gradient(dy, weight)
    assert y.dtype == dx.dtype == BF16
    assert y.shape == (t, o)
    assert dx.shape == (t, i)
    assert relative(y, x.double() @ weight.double().t()) <= 0.05
    assert relative(dx, dy.double() @ weight.double()) <= 0.05


def test_a_token_with_large_values_does_not_coarsen_the_others() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(8, 64).to(BF16), torch.randn(16, 64).to(BF16)
    alone = fp8.forward_product(x, weight)
    x[3] *= 1000
    assert torch.equal(fp8.forward_product(x, weight)[:3], alone[:3])


def test_tokens_and_weights_of_zeros_give_zeros() -> None:
    x, weight = torch.zeros(4, 16, dtype=BF16), torch.randn(32, 16).to(BF16)
    assert fp8.forward_product(x, weight).eq(0).all()
    assert fp8.forward_product(weight[:4], x.repeat(4, 1)).eq(0).all()


@pytest.mark.parametrize(("m", "n"), [(3, 16), (66, 80), (2, 4112)])
def test_casts_of_triton_equal_those_of_torch(m: int, n: int, device: torch.device) -> None:
    """To one step of e4m3: the interpreter rounds otherwise than a device."""
    from megabiomed.kernels.triton import fp8 as kernels

    torch.manual_seed(0)
    x = (torch.randn(m, n, device=device) * torch.logspace(-6, 3, m, device=device)[:, None]).to(BF16)
    x[0] = 0
    ours, scale = kernels.cast_rows(x)
    theirs, expected = fp8.cast_rows(x)
    assert torch.equal(scale, expected)
    assert_one_step(ours, theirs)
    one = fp8._scale_of(x)
    for turned in (False, True) if n < kernels.BLOCK else ():
        ours = kernels.cast_matrix(x, one, turned)
        assert ours.shape == ((n, m) if turned else (m, n))
        assert_one_step(ours, fp8.cast_matrix(x, one, turned))


def assert_one_step(ours: Tensor, theirs: Tensor) -> None:
    a, b = ours.float(), theirs.float()
    carried = torch.frexp(b)[0].abs() == 0.5  # the interpreter loses the carry of 1.99 to 2
    assert ((a - b).abs() <= (b.abs() / torch.where(carried, 2, 8)).clamp(min=2.0**-9)).all()


def test_rows_with_a_stride_are_read_as_they_lie(device: torch.device) -> None:
    from megabiomed.kernels.triton import fp8 as kernels

    wide = torch.randn(6, 64, device=device).to(BF16)
    for x in (wide[:, 16:48], wide.t()):
        assert_one_step(kernels.cast_rows(x)[0], fp8.cast_rows(x)[0])


def test_devices_and_sizes_that_cannot_are_refused() -> None:
    fp8.check_arch(Site("cpu", 0, BF16, 0))
    fp8.check_arch(Site("cuda", 90, BF16, 0))
    with pytest.raises(
        ConfigError, match=r"cannot multiply in fp8: got sm_80, expected sm_89 or later; set train\.prec"
    ):
        fp8.check_arch(Site("cuda", 80, BF16, 0))
    fp8.check_sizes("down_proj", 4096, 11008)
    with pytest.raises(ConfigError, match=r"down_proj cannot be multiplied in fp8: got \[4096, 344\]"):
        fp8.check_sizes("down_proj", 4096, 344)


def test_torchao_rounds_alike() -> None:
    pytest.importorskip("torchao.float8")
    from torchao.float8.config import ScalingGranularity
    from torchao.float8.float8_scaling_utils import hp_tensor_to_float8_dynamic
    from torchao.float8.float8_training_tensor import LinearMMConfig

    x = torch.randn(40, 64).to(BF16)
    rows = hp_tensor_to_float8_dynamic(
        x, torch.float8_e4m3fn, LinearMMConfig(), scaling_granularity=ScalingGranularity.AXISWISE, axiswise_dim=-1
    )
    ours, scale = fp8.cast_rows(x)
    assert_one_step(ours, rows._data)
    assert torch.allclose(scale, rows._scale.reciprocal(), rtol=1e-6)


def test_a_dry_run_says_how_this_machine_multiplies(
    command: Callable[..., subprocess.CompletedProcess[str]], run_file: Path
) -> None:
    shown = command("pretrain", run_file, "train.precision=fp8", "--dry-run").stdout
    assert "parameters, fp8" in shown
    assert "fp8: emulated: slower than without fp8" in shown or "fp8: one pass over memory" in shown
