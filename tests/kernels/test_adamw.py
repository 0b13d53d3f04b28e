"""The flat AdamW step against torch's own in fp64."""

from __future__ import annotations

import pytest
import torch
from support.precision import error

from megabiomed.ground.errors import ConfigError
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
    assert error(shard.copy, exact) <= 8e-3  # bf16
    assert torch.equal(shard.gradient, before)
    for moment, name in ((shard.first, "exp_avg"), (shard.second, "exp_avg_sq")):
        assert error(moment, optimizer.state[exact][name]) <= 1e-6


def test_an_empty_shard_is_left_alone(device: torch.device) -> None:
    adamw_step(shard_of(0, torch.float32, device), Rule(1.0, (0.9, 0.9), 1e-8, 0.0, 1), torch.ones(1), "triton")


def test_torch_steps_until_a_gpu_has_shown_the_kernel_to_be_faster() -> None:
    found = choice(Site("cuda", 90, torch.float32, 10))
    assert found.name == "torch"
    assert "not triton: not measured on a GPU yet" in found.why
    with pytest.raises(ConfigError, match=r"unknown backend in kernels\.adamw"):
        choice(Site("cpu", 0, torch.float32, 10), "apex")
    assert [backend.name for backend in BACKENDS] == ["triton", "torch"]
