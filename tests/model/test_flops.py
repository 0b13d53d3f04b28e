"""The FLOP formula against figures worked out by hand, and the memory arithmetic."""

from __future__ import annotations

import pytest

from megabiomed.config import ModelConfig, OptimizerConfig, RunConfig
from megabiomed.model.flops import (
    checkpoint_bytes,
    flops_per_token,
    model_flops_utilization,
    parameter_count,
    state_bytes_per_rank,
)


def test_llama2_7b_by_hand() -> None:
    model = ModelConfig()
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    assert parameter_count(model) == 2 * 32000 * 4096 + 32 * layer + 4096 == 6_738_415_616
    assert flops_per_token(model, 4096) == pytest.approx(46.9e9, rel=2e-3)
    assert checkpoint_bytes(model, OptimizerConfig()) == 12 * 6_738_415_616


def test_llama2_70b_counts_grouped_heads() -> None:
    model = ModelConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    assert parameter_count(model) == 68_976_648_192


def test_mfu_of_an_exact_case() -> None:
    assert model_flops_utilization(1000.0, 5e9, 2, 1e13) == pytest.approx(0.25)
    assert model_flops_utilization(1000.0, 5e9, 2, None) is None


def test_sharding_divides_what_it_shards() -> None:
    def of(stage: int) -> dict[str, float]:
        values = {"name": "x", "parallel": {"zero_stage": stage, "tensor_parallel_size": 2}, "train": {"steps": 1}}
        return state_bytes_per_rank(RunConfig.model_validate(values), dp=8)

    half = parameter_count(ModelConfig()) / 2
    assert of(1) == {"weights": 2 * half, "gradients": 4 * half, "optimizer": 12 * half / 8}
    assert of(3) == {"weights": 2 * half / 8, "gradients": 4 * half / 8, "optimizer": 12 * half / 8}
