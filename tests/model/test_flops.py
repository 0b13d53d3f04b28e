"""FLOPs against figures worked out by hand, and the memory arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.families import FAMILIES, tiny
from torch.utils.flop_counter import FlopCounterMode

from megabiomed.config import LoraConfig, ModelConfig, OptimizerConfig, RunConfig
from megabiomed.model.flops import (
    checkpoint_bytes,
    palm_flops_per_token,
    parameter_count,
    state_bytes_of_stages,
    state_bytes_per_rank,
    training_flops,
    utilization,
    window_flops_per_token,
)
from megabiomed.model.hf_config import model_config_from_hf

SMALL = ModelConfig(
    vocab_size=10,
    hidden_size=8,
    intermediate_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
TOKENS, PAIRS = 6, 1 + 3 + 6  # documents of one, two and three tokens
LAYER = 8 * 8 + 2 * 4 * 8 + 8 * 8 + 3 * 8 * 16  # q, k and v (one head of 4), o, the three matrices of the MLP
HEAD = 10 * 8  # the embedding of the same size is looked up, not multiplied by


def test_llama2_7b_by_hand() -> None:
    model = ModelConfig()
    layer = 4 * 4096 * 4096 + 3 * 4096 * 11008 + 2 * 4096
    assert parameter_count(model) == 2 * 32000 * 4096 + 32 * layer + 4096 == 6_738_415_616
    assert palm_flops_per_token(model, 4096) == pytest.approx(46.9e9, rel=2e-3)
    # Without the embedding (131 M parameters) and with half of the attention.
    matrices = 32000 * 4096 + 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert window_flops_per_token(model, 4096) == 6 * matrices + 6 * 32 * 4096 * 4097
    assert checkpoint_bytes(model, OptimizerConfig()) == 12 * 6_738_415_616


def test_a_tied_head_is_counted_once_and_multiplied_all_the_same() -> None:
    tied = SMALL.model_copy(update={"tie_word_embeddings": True})
    assert parameter_count(tied) == parameter_count(SMALL) - HEAD
    assert checkpoint_bytes(tied, OptimizerConfig()) == checkpoint_bytes(SMALL, OptimizerConfig()) - 12 * HEAD
    assert training_flops(tied, TOKENS, PAIRS) == training_flops(SMALL, TOKENS, PAIRS)


def test_the_last_stage_holds_a_copy_of_a_tied_matrix_and_its_gradient() -> None:
    values = {
        "name": "n",
        "model": SMALL.model_dump(),
        "train": {"steps": 1},
        "parallel": {"pipeline_parallel_size": 2},
    }
    apart = RunConfig.model_validate(values)
    tied = apart.model_copy(update={"model": SMALL.model_copy(update={"tie_word_embeddings": True})})
    (first, before), (same, last) = state_bytes_of_stages(apart, 2), state_bytes_of_stages(tied, 2)
    assert first == same
    assert (last["weights"], last["gradients"]) == (before["weights"], before["gradients"])
    assert last["optimizer"] == before["optimizer"] - 12 * HEAD / 2
    adapters = tied.model_copy(update={"lora": LoraConfig(rank=2)})
    assert state_bytes_of_stages(adapters, 2) == state_bytes_of_stages(
        apart.model_copy(update={"lora": LoraConfig(rank=2)}), 2
    )


def test_llama2_70b_counts_grouped_heads() -> None:
    model = ModelConfig(
        hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8
    )
    assert parameter_count(model) == 68_976_648_192


def test_a_batch_counts_what_its_tokens_multiply_and_see() -> None:
    found = training_flops(SMALL, TOKENS, PAIRS)
    attention = 2 * 8 * PAIRS * 2 * 2  # multiply and add, q of 8, two products, two layers
    assert found.model == 6 * (2 * LAYER + HEAD) * TOKENS + 3 * attention
    assert found.hardware == found.model + attention / 2  # the scores once more
    one_document = training_flops(SMALL, TOKENS, 6 * 7 // 2)
    assert one_document.model - found.model == 3 * attention * (21 - 10) / 10


@pytest.mark.parametrize(
    ("recompute", "again"), [("none", 0), ("selective", 640), ("full", 640 + 2 * 2 * LAYER * TOKENS)]
)
def test_recomputation_is_hardware_work_alone(recompute: str, again: int) -> None:
    plain, found = training_flops(SMALL, TOKENS, PAIRS), training_flops(SMALL, TOKENS, PAIRS, recompute=recompute)
    assert found.model == plain.model
    assert found.hardware == plain.hardware + again


def test_frozen_weights_have_no_gradients_of_their_own() -> None:
    adapters = 2 * 3 * (8 + 8)  # rank 3, A and B of q in both layers
    found = training_flops(SMALL, TOKENS, PAIRS, LoraConfig(rank=3, targets=["q"]))
    assert found.model == (4 * (2 * LAYER + HEAD) + 6 * adapters) * TOKENS + 12 * 2 * 8 * PAIRS


def test_utilization_of_an_exact_case() -> None:
    assert utilization(1e13, 2.0, 2, 1e13) == pytest.approx(0.25)
    assert utilization(1e13, 2.0, 2, None) is None


def test_sharding_divides_what_it_shards() -> None:
    def of(stage: int) -> dict[str, float]:
        values = {"name": "x", "parallel": {"zero_stage": stage, "tensor_parallel_size": 2}, "train": {"steps": 1}}
        return state_bytes_per_rank(RunConfig.model_validate(values), dp=8)

    half = (parameter_count(ModelConfig()) + 65 * 4096) / 2  # both tensor ranks hold every norm
    assert of(1) == {"weights": 2 * half, "gradients": 4 * half, "optimizer": 12 * half / 8}
    assert of(3) == {"weights": 2 * half / 8, "gradients": 4 * half / 8, "optimizer": 12 * half / 8}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_takes_the_flops_that_torch_counts_in_transformers(family: str, tmp_path: Path) -> None:
    there = tiny(family)
    there.save_pretrained(tmp_path)
    there.set_attn_implementation("eager")  # its two products see all pairs, the masked ones too
    tokens = torch.arange(48).view(2, 24)
    with FlopCounterMode(display=False) as counter:
        there(tokens, labels=tokens).loss.backward()
    ours = training_flops(model_config_from_hf(tmp_path), tokens.numel(), 2 * 24 * 24).model
    assert counter.get_total_flops() == ours
