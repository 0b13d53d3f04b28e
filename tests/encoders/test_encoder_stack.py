"""Encoders beside the language model, in one process: what a frozen protein encoder computes, and keeps on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megabiomed.config import OptimizerConfig
from megabiomed.config.align import AlignConfig
from megabiomed.encoders.encoder_stack import EncoderStack
from megabiomed.encoders.esm2 import ESM2
from megabiomed.encoders.esm2.alphabet import encode
from megabiomed.encoders.esm2.config import Esm2Config, EsmLoraConfig
from megabiomed.encoders.esm2.model import Esm2, ProteinBatch
from megabiomed.encoders.lora import add_lora, is_lora, item_noise
from megabiomed.encoders.weights import fingerprint, function_hash

PROTEINS = [encode(s) for s in ("MKTAYIAKQR", "M", "ACDEFGHIKLMNPQRSTVWY")]
SIZES: dict[str, Any] = {"num_layers": 2, "hidden_size": 16}


@pytest.fixture
def alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def side(stage: int, cache: Path) -> EncoderStack:
    """Stage 0 trains the protein encoder's LoRA with dropout, stage 1 leaves the encoder frozen."""
    protein = {**SIZES, "num_attention_heads": 2, "cache": str(cache), "lora": {"r": 3, "alpha": 6.0, "dropout": 0.3}}
    stages = [{"name": "a", "steps": 1, "protein": "lora"}, {"name": "b", "steps": 1}]
    align = AlignConfig.model_validate({"molecule": SIZES, "protein": protein, "stages": stages})
    made = EncoderStack(align, align.stages[stage], OptimizerConfig(), hidden_size=24, seed=1)
    torch.manual_seed(2)
    for name, parameter in made.encoders["protein"].named_parameters():
        if is_lora(f".{name}"):
            torch.nn.init.normal_(parameter, std=0.3)
    return made


@torch.no_grad()
def test_an_encoder_frozen_after_lora_drops_nothing_with_or_without_the_cache(alone: None, tmp_path: Path) -> None:
    noises = [item_noise(7, 3, number) for number in range(3)]
    batch, trained = ProteinBatch.of(PROTEINS), side(0, tmp_path)
    expected = trained.encode("protein", batch)
    assert not torch.allclose(trained.encode("protein", batch, noises), expected, atol=1e-3)
    frozen = side(1, tmp_path)
    frozen.encode("protein", ProteinBatch.of(PROTEINS[:1]), noises[:1])  # then one is in the cache and two are not
    for _ in range(2):
        assert torch.allclose(frozen.encode("protein", batch, noises), expected, atol=1e-5)
    assert frozen._caches["protein"].hits == 4


def test_the_key_of_the_cache_knows_all_that_rows_depend_on() -> None:
    def esm2(heads: int = 2, alpha: float = 6.0) -> Esm2:
        torch.manual_seed(0)
        config = Esm2Config(**SIZES, num_attention_heads=heads, lora=EsmLoraConfig(r=3, alpha=alpha))
        model = Esm2(config)
        add_lora(model, config.lora, ESM2.lora_matrices(config), 1)
        return model

    def key(model: Esm2) -> str:
        return function_hash(model, ESM2.constants(model), ESM2.function_text(model.config))

    rounded, tuned = esm2(), esm2()
    rounded.inv_freq = rounded.inv_freq.half().float()
    next(p for name, p in tuned.named_parameters() if is_lora(f".{name}")).data.add_(1)
    models = [esm2(), esm2(heads=4), esm2(alpha=3.0), rounded, tuned]
    assert len({fingerprint(model) for model in models}) == 1
    assert len({key(model) for model in models}) == 5
    assert key(esm2()) == key(models[0])
