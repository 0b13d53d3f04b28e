"""Fresh weights do not depend on who asks for which part."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from support import checkpoints as world

from megabiomed.checkpoint.logical import Box, DirectSource
from megabiomed.checkpoint.reader import load_fragments
from megabiomed.config.models import ModelConfig
from megabiomed.config.optimizers import ADAMW
from megabiomed.model import fresh
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of

WIDE = ModelConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4
)


def whole(name: str, config: ModelConfig = WIDE, seed: int = 3) -> torch.Tensor:
    return SeededInit(config, seed).read(Box.whole(name, architecture_of(config).shapes[name]))


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_every_topology_starts_from_the_same_numbers(tp: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "_BLOCK", 40)
    truth = {name: whole(name, world.MODEL) for name in architecture_of(world.MODEL).shapes}
    moments = {name: torch.zeros_like(values) for name, values in truth.items()}
    wanted, found = world.cut_world(world.MODEL, tp, [0.31]), world.cut_world(world.MODEL, tp, [0.31])
    world.fill(wanted, {"param": truth, "exp_avg": moments, "exp_avg_sq": moments})
    for mine, right in zip(found, wanted):
        load_fragments(SeededInit(world.MODEL, 3), mine)
        assert all(torch.equal(a.views[kind], b.views[kind]) for a, b in zip(mine, right) for kind in ADAMW.kinds)


def test_a_box_is_cut_out_of_the_whole_tensor_across_blocks() -> None:
    assert fresh._BLOCK == 8192 * 128
    name = "model.embed_tokens.weight"
    box = Box(name, (32000, 128), (8000, 5), (9000, 60))
    assert torch.equal(SeededInit(WIDE, 3).read(box), whole(name)[8000:17000, 5:65])


@pytest.mark.parametrize("threads", [1, 5])
def test_threads_draw_the_numbers_of_one(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "model.embed_tokens.weight"
    expected = whole(name)
    with ThreadPoolExecutor(threads) as pool:
        monkeypatch.setattr(fresh, "_threads", lambda process: pool)
        assert torch.equal(whole(name), expected)


def test_memory_that_is_there_is_filled_in_its_own_type() -> None:
    box, source = Box("model.embed_tokens.weight", (32000, 128), (8000, 5), (9000, 60)), SeededInit(WIDE, 3)
    assert isinstance(source, DirectSource)
    out = torch.empty(9000, 60, dtype=torch.bfloat16)
    source.read_into(box, out)
    assert torch.equal(out, source.read(box).bfloat16())


def test_tensors_and_seeds_differ() -> None:
    q, k = (whole(f"model.layers.0.self_attn.{name}_proj.weight") for name in "qk")
    assert (q - k).abs().mean() > 0.01
    assert (q - whole("model.layers.0.self_attn.q_proj.weight", seed=4)).abs().mean() > 0.01


def test_the_numbers_of_a_seed_never_change() -> None:
    """A fixed sample: a run that is repeated with a later version must start from the same weights."""
    values = whole("model.layers.0.mlp.gate_proj.weight", seed=1234)[0, :4]
    torch.testing.assert_close(values, torch.tensor(FIRST_OF_SEED_1234), rtol=1e-6, atol=0)


FIRST_OF_SEED_1234 = [-0.0185496751, -0.0014795722, 0.0064991977, 0.0006528271]


def test_deviations_are_those_of_gpt2() -> None:
    embedding, down = whole("model.embed_tokens.weight"), whole("model.layers.7.mlp.down_proj.weight")
    assert math.isclose(float(embedding.std()), 0.02, rel_tol=0.01)
    assert math.isclose(float(down.std()), 0.02 / math.sqrt(16), rel_tol=0.02)
    assert abs(float(embedding.mean())) < 1e-4
    assert torch.equal(whole("model.norm.weight"), torch.ones(128))
