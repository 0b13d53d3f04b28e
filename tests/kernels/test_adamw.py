"""The flat AdamW step against torch's own in fp64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.precision import error

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels import adamw
from megabiomed.kernels.adamw import BACKENDS, Rule, Shard, adamw_step, choice, reference
from megabiomed.kernels.dispatch import Site


def shard_of(n: int, gradient: torch.dtype, device: torch.device) -> Shard:
    torch.manual_seed(0)
    master, grad = torch.randn(n, device=device), torch.randn(n, device=device).to(gradient)
    moments = (torch.zeros(n, device=device) for _ in range(2))
    return Shard(master, grad, *moments, torch.empty(n, dtype=torch.bfloat16, device=device))


@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [1, 5000])
def test_three_steps_equal_torch_in_fp64(backend: str, gradient: torch.dtype, n: int, device: torch.device) -> None:
    shard = shard_of(n, gradient, device)
    exact = shard.master.double().requires_grad_()
    optimizer = torch.optim.AdamW([exact], lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    before, scale = shard.gradient.clone(), torch.tensor([0.5], device=device)
    for count in (1, 2, 3):
        rule = Rule(1e-2, (0.9, 0.95), 1e-8, 0.1, count)
        if backend == "reference":
            reference(shard, rule, scale)
        else:
            adamw_step(shard, rule, scale, backend)
        exact.grad = before.double() * 0.5
        optimizer.step()
    assert error(shard.master, exact) <= 1e-6
    assert shard.copy is not None
    assert error(shard.copy, exact) <= 8e-3  # bf16
    assert torch.equal(shard.gradient, before)
    for moment, name in ((shard.first, "exp_avg"), (shard.second, "exp_avg_sq")):
        assert error(moment, optimizer.state[exact][name]) <= 1e-6


def test_an_empty_shard_is_left_alone(device: torch.device) -> None:
    adamw_step(shard_of(0, torch.float32, device), Rule(1.0, (0.9, 0.9), 1e-8, 0.0, 1), torch.ones(1), "triton")


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_a_scale_that_is_no_number_changes_nothing(backend: str, device: torch.device) -> None:
    shard = shard_of(5000, torch.float32, device)
    assert shard.copy is not None
    shard.copy.copy_(shard.master)
    before = [tensor.clone() for tensor in (shard.master, shard.first, shard.second, shard.copy)]
    nan = torch.full((1,), float("nan"), device=device)
    adamw_step(shard, Rule(1e-2, (0.9, 0.95), 1e-8, 0.1, 1), nan, backend)
    for tensor, old in zip((shard.master, shard.first, shard.second, shard.copy), before, strict=True):
        assert torch.equal(tensor, old)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_the_copy_may_be_left_out(backend: str, device: torch.device) -> None:
    with_copy = shard_of(5000, torch.float32, device)
    without = replace(shard_of(5000, torch.float32, device), copy=None)
    rule, scale = Rule(1e-2, (0.9, 0.95), 1e-8, 0.1, 1), torch.tensor([0.5], device=device)
    adamw_step(with_copy, rule, scale, backend)
    adamw_step(without, rule, scale, backend)
    assert torch.equal(with_copy.master, without.master)


def test_torch_in_blocks_has_the_bits_of_one_block(monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    whole, blocks = shard_of(5000, torch.float32, device), shard_of(5000, torch.float32, device)
    rule, scale = Rule(1e-2, (0.9, 0.95), 1e-8, 0.1, 1), torch.tensor([0.5], device=device)
    adamw_step(whole, rule, scale, "torch")
    monkeypatch.setattr(adamw, "_BLOCK", 1024)
    adamw_step(blocks, rule, scale, "torch")
    assert torch.equal(whole.master, blocks.master)


def test_triton_steps_on_a_gpu_and_torch_on_a_cpu() -> None:
    assert choice(Site("cuda", 90, torch.float32, 0)).name == "triton"
    found = choice(Site("cuda", 75, torch.float32, 0))
    assert found.name == "torch"
    assert "not triton: compiled and tested for sm_80 and later" in found.why
    assert choice(Site("cpu", 0, torch.float32, 0)).name == "torch"  # also where Triton's interpreter could serve
    with pytest.raises(ConfigError, match=r"unknown backend in kernels\.adamw"):
        choice(Site("cpu", 0, torch.float32, 10), "apex")
    assert [backend.name for backend in BACKENDS] == ["triton", "torch"]
