"""LoRA of encoders: begins as no change, equals peft's arithmetic, merges exactly, and drops the same whatever the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from megabiomed.config.modalities import EncoderLoraConfig
from megabiomed.encoders.esm2 import ESM2
from megabiomed.encoders.esm2.alphabet import encode
from megabiomed.encoders.esm2.config import Esm2Config, EsmLoraConfig
from megabiomed.encoders.esm2.model import Esm2, ProteinBatch
from megabiomed.encoders.gin import GIN
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.featurise import featurise
from megabiomed.encoders.gin.model import Gin, MoleculeBatch
from megabiomed.encoders.lora import add_lora, is_lora, item_noise, merged_state, set_dropout

PROTEINS = [encode(s) for s in ("MKTAYIAKQR", "M", "ACDEFGHIKLMNPQRSTVWY")]
MOLECULES = [featurise(s) for s in ("CCO", "[Na+]", "c1ccccc1")]


def esm2(dropout: float = 0.0) -> Esm2:
    torch.manual_seed(0)
    lora = EsmLoraConfig(r=3, alpha=6.0, dropout=dropout, targets=["query", "value", "fc1"])
    config = Esm2Config(num_layers=2, hidden_size=16, num_attention_heads=2, lora=lora)
    model = Esm2(config)
    add_lora(model, lora, ESM2.lora_matrices(config), 1)
    return model


def gin() -> Gin:
    torch.manual_seed(0)
    config = GinConfig(num_layers=2, hidden_size=12)
    model = Gin(config)
    add_lora(model, EncoderLoraConfig(r=3, alpha=6.0), GIN.lora_matrices(config), 1)
    return model


def stirred(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if is_lora(f".{name}"):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize(("make", "plain", "batch"), [
    (esm2, lambda: Esm2(Esm2Config(num_layers=2, hidden_size=16, num_attention_heads=2)), ProteinBatch.of(PROTEINS)),
    (gin, lambda: Gin(GinConfig(num_layers=2, hidden_size=12)), MoleculeBatch.of(MOLECULES)),
])  # fmt: skip
def test_it_begins_as_no_change_and_merges_into_the_original(make: Any, plain: Any, batch: Any) -> None:
    model, original = make(), plain()
    original.load_state_dict({k: v for k, v in model.state_dict().items() if not is_lora(f".{k}")})
    assert torch.equal(model(batch), original(batch))
    adapted = stirred(model)(batch)
    assert not torch.allclose(adapted, original(batch), atol=1e-3)
    original.load_state_dict(merged_state(model))
    assert torch.allclose(adapted, original(batch), atol=1e-5)


def test_only_the_chosen_matrices_have_updates() -> None:
    names = {name.rsplit(".lora_", 1)[0] for name, _ in esm2().named_parameters() if is_lora(f".{name}")}
    assert names == {f"layers.{n}.{part}" for n in (0, 1) for part in ("self_attn.q_proj", "self_attn.v_proj", "fc1")}


def test_dropout_of_a_protein_does_not_depend_on_its_batch() -> None:
    model = stirred(esm2(dropout=0.3))
    noises = [item_noise(7, 3, number) for number in range(3)]
    set_dropout(model, [p.rows for p in PROTEINS], noises)
    together = model(ProteinBatch.of(PROTEINS)).split([p.rows for p in PROTEINS])
    for protein, noise, rows in zip(PROTEINS, noises, together):
        set_dropout(model, [protein.rows], [noise])
        assert torch.allclose(model(ProteinBatch.of([protein])), rows, atol=1e-5)
    set_dropout(model, [], [])
    assert not torch.allclose(model(ProteinBatch.of(PROTEINS)), torch.cat(together), atol=1e-3)
