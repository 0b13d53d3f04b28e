"""What follows from a table of tensors: shapes, cuts, adapters, parts; and which tables are refused."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import ClassVar

import pytest

from megabiomed.checkpoint.logical import Box, uncovered
from megabiomed.config import LoraConfig, ModelConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.model.architecture import Architecture
from megabiomed.model.placements import held, pieces
from megabiomed.model.registry import architecture_class, architecture_of
from megabiomed.model.tensors import TensorSpec, extended

CONFIG = ModelConfig(
    vocab_size=251, hidden_size=64, intermediate_size=176, num_hidden_layers=3, num_attention_heads=8,
    num_key_value_heads=4, head_dim=16,
)  # fmt: skip
LLAMA = architecture_of(CONFIG)


def test_llamas_tensors_are_those_of_its_paper_in_forward_order() -> None:
    names = list(LLAMA.shapes)
    assert names[0] == LLAMA.embedding.name == "model.embed_tokens.weight"
    assert names[-2:] == [LLAMA.final_norm.name, LLAMA.head.name] == ["model.norm.weight", "lm_head.weight"]
    second = {
        name.split(".", 3)[3]: shape for name, shape in LLAMA.shapes.items() if name.startswith("model.layers.1.")
    }
    assert second == {
        "input_layernorm.weight": (64,), "self_attn.q_proj.weight": (128, 64), "self_attn.k_proj.weight": (64, 64),
        "self_attn.v_proj.weight": (64, 64), "self_attn.o_proj.weight": (64, 128),
        "post_attention_layernorm.weight": (64,), "mlp.gate_proj.weight": (176, 64), "mlp.up_proj.weight": (176, 64),
        "mlp.down_proj.weight": (64, 176),
    }  # fmt: skip
    assert LLAMA.parameters() == sum(map(prod, LLAMA.shapes.values()))


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_parts_of_all_tensor_ranks_make_each_tensor_once(ranks: int) -> None:
    lora = LoraConfig(rank=2)
    for tensor in [*LLAMA.tensors.values(), *LLAMA.trained(lora).values()]:
        boxes = [box for rank in range(ranks) if (box := held(tensor, rank, ranks))]
        if tensor.replicated:
            assert boxes == [Box.whole(tensor.name, tensor.shape)] * ranks
        else:
            assert not uncovered(Box.whole(tensor.name, tensor.shape), boxes)
            assert sum(box.numel for box in boxes) == prod(tensor.shape)
        # What is counted for memory is what the fullest rank holds, padding of the vocabulary included.
        assert 0 <= tensor.share(ranks) - max(box.numel for box in boxes) < tensor.shape[-1] + 1


def test_fused_matrices_lie_one_below_the_other_in_the_order_of_the_table() -> None:
    qkv = LLAMA.matrices["model.layers.2.self_attn.qkv"]
    assert (qkv.cut, qkv.inputs, qkv.outputs, qkv.biases) == ("rows", 64, 256, ())
    rows = [(piece.local_row, piece.box.name.split(".")[4], piece.box.offset[0]) for piece in pieces(qkv.weights, 1, 2)]
    assert rows == [(0, "q_proj", 64), (64, "k_proj", 32), (96, "v_proj", 32)]


def test_adapters_have_pefts_names_and_the_narrow_factor_on_every_rank() -> None:
    lora = LoraConfig(rank=4, targets=["down", "q"])
    assert LLAMA.targets(lora) == ("q", "down")
    assert LLAMA.targets(LoraConfig()) == ("q", "k", "v", "o", "gate", "up", "down")
    first = {name: t for name, t in LLAMA.trained(lora).items() if ".layers.0." in name}
    stems = ("model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj")
    assert {name: (t.shape, t.replicated) for name, t in first.items()} == {
        f"{stems[0]}.lora_A.weight": ((4, 64), True), f"{stems[0]}.lora_B.weight": ((128, 4), False),
        f"{stems[1]}.lora_A.weight": ((4, 176), False), f"{stems[1]}.lora_B.weight": ((64, 4), True),
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_parts_of_a_pipeline_hold_every_tensor_once(count: int) -> None:
    parts = [LLAMA.part(LLAMA.tensors.values(), [chunk]) for chunk in LLAMA.chunks(count)]
    assert [tensor.name for part in parts for tensor in part] == list(LLAMA.tensors)
    assert LLAMA.chunks(2) == [(0, 2), (2, 3)]


class Strange(Architecture):
    """Llama with a tensor that no layer of the decoder uses."""

    gate: ClassVar = TensorSpec("model.layers.{i}.self_attn.gate.weight", ("h",), "whole")
    table = extended(architecture_class("llama").table, {"model.layers.{i}.self_attn.o_proj.weight": [gate]})
    hugging_face = architecture_class("llama").hugging_face


def test_a_tensor_that_no_layer_uses_is_refused() -> None:
    strange = Strange(CONFIG)
    assert len(strange.tensors) == len(LLAMA.tensors) + 3
    with pytest.raises(ConfigError, match=r"do not use: got model\.layers\.1\.self_attn\.gate\.weight"):
        strange.check_used(LLAMA.tensors.keys() | {"model.layers.0.self_attn.gate.weight"}, [(0, 3)])
    strange.check_used(LLAMA.tensors.keys() | {"model.layers.0.self_attn.gate.weight"}, [(0, 1)])


class Tied(Architecture):
    """Llama whose head is its embedding."""

    table = (
        *architecture_class("llama").table[:-1],
        TensorSpec("lm_head.weight", ("v", "h"), "vocabulary", stored_as="model.embed_tokens.weight"),
    )
    hugging_face = architecture_class("llama").hugging_face


def test_a_head_is_tied_by_the_table_or_by_the_configuration() -> None:
    asked = architecture_of(CONFIG.model_copy(update={"tie_word_embeddings": True}))
    for tied in (asked, Tied(CONFIG)):
        tied.check_tying()
        assert tied.tied
        assert tied.head is tied.embedding
        assert tied.tensors.keys() == LLAMA.tensors.keys() - {"lm_head.weight"}
        assert tied.parameters() == LLAMA.parameters() - prod(LLAMA.head.shape)
        assert [t.name for t in tied.multiplied].count("model.embed_tokens.weight") == 1
    assert not LLAMA.tied


def test_other_tensors_that_are_stored_as_one_another_are_refused() -> None:
    class Twins(Architecture):
        table = tuple(
            replace(spec, stored_as="model.norm.weight") if spec.name.endswith("input_layernorm.weight") else spec
            for spec in architecture_class("llama").table
        )

    with pytest.raises(ConfigError, match=r"input_layernorm\.weight stored as model\.norm\.weight, expected the head"):
        Twins(CONFIG).check_tying()


def test_a_bias_of_a_matrix_cut_by_columns_is_on_every_rank() -> None:
    bias = TensorSpec("model.layers.{i}.self_attn.o_proj.bias", ("h",), "whole", initial="zeros")

    class Biased(Architecture):
        table = extended(architecture_class("llama").table, {"model.layers.{i}.self_attn.o_proj.weight": [bias]})

    matrix = Biased(CONFIG).matrices["model.layers.0.self_attn.o_proj"]
    assert [tensor.name for tensor in matrix.biases] == ["model.layers.0.self_attn.o_proj.bias"]
    assert all(tensor.replicated for tensor in matrix.biases)
