"""Adapters on every topology equal plain LoRA linears on transformers' Llama in one process, and cost what they promise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.lora import LORA, OPTIMIZER, lora_reference
from support.parity import case_config, parallel_of, read_case
from support.spawn import run_ranks

from megabiomed.kernels.dropout import Noise, drop, keep

WORKER = Path(__file__).with_name("parity_worker.py")
Case = dict[str, Any]
FSDP = {"engine": "fsdp2"}


def case(name: str, lora: dict[str, Any] | None = None, precision: str = "fp32", **parallel: Any) -> Case:
    adapters = {**LORA, **(lora or {})}
    return {
        "name": name,
        "precision": precision,
        "micro_batch_size": 2,
        "parallel": parallel_of(**parallel),
        "lora": adapters,
        "optimizer": OPTIMIZER,
    }


DROPOUT = {"dropout": 0.25}
SOME = {"targets": ["k", "o", "up"]}
TWO = [
    case("tp2", tp=2, zero=0),
    case("tp2-sp-zero3", tp=2, sp=True, zero=3),
    case("pp2-zero1", pp=2, zero=1),
    case("dp2-zero1", zero=1),
    case("dp2-zero3", zero=3),
    case("dp2-fsdp2", **FSDP),
    case("tp2-some-zero1", SOME, tp=2, zero=1),
    case("tp2-sp-dropout", DROPOUT, tp=2, sp=True, zero=1, activation_checkpointing="full"),
    case("dp2-dropout", DROPOUT, zero=2),
    case("dp2-zero1-bf16", precision="bf16", zero=1),
]
FOUR = [
    case("tp2-pp2-zero1", tp=2, pp=2, zero=1),
    case("tp2-pp2-sp-zero1-dropout", DROPOUT, tp=2, pp=2, sp=True, zero=1),
    case("tp2-dp2-zero3", tp=2, zero=3),
    case("pp2-dp2-zero3-recompute", pp=2, zero=3, activation_checkpointing="full"),
    case("tp2-dp2-zero2", tp=2, zero=2),
    case("tp2-dp2-fsdp2", tp=2, **FSDP),
    case("pp2-dp2-fsdp2", pp=2, **FSDP),
    case("pp2-dp2-interleaved-zero3", pp=2, zero=3, pipeline_schedule="interleaved", virtual_pipeline_stages=2),
]
WORLDS = {2: TWO, 4: FOUR}


@pytest.fixture(scope="module")
def oracle() -> Any:
    """References by adapters' configuration, made once each."""
    done: dict[str, Any] = {}

    def of(found: Case) -> dict[str, Any]:
        lora = found["lora"]
        key = json.dumps(lora)
        if key not in done:
            done[key] = lora_reference(case_config({"name": "reference", "lora": lora, "optimizer": OPTIMIZER}))
        return done[key]

    return of


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done: dict[int, Path] = {}

    def of(world: int) -> Path:
        if world not in done:
            folder = done[world] = tmp_path_factory.mktemp(f"lora{world}")
            (folder / "cases.json").write_text(json.dumps(WORLDS[world]))
            run_ranks(
                world,
                [str(WORKER), str(folder / "cases.json"), str(folder)],
                folder / "logs",
                timeout_s=280 * world / 2,
            )
        return done[world]

    return of


def cases() -> list[Any]:
    marks = {2: [pytest.mark.timeout(300)], 4: [pytest.mark.timeout(600), pytest.mark.slow]}
    return [
        pytest.param(world, held, id=held["name"], marks=marks[world])
        for world, several in WORLDS.items()
        for held in several
    ]


def relative(ours: list[float], theirs: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("world", "held"), cases())
def test_adapters_equal_one_process(world: int, held: Case, computed: Any, oracle: Any) -> None:
    expected = oracle(held)
    result = read_case(computed(world) / held["name"], case_config(held).lora)
    trained = sum(values.numel() for values in expected["parameters"].values())
    assert 0 < result["optimizer_elements"] <= 2 * trained + 4096  # two moments of adapters, and padding
    if held["precision"] == "bf16":
        assert relative(result["loss"], expected["loss"]) <= 2e-3
        return
    assert relative(result["loss"], expected["loss"]) <= 1e-5
    assert relative(result["grad_norm"], expected["grad_norm"]) <= 1e-5
    assert result["parameters"].keys() == expected["parameters"].keys()
    for key, values in expected["parameters"].items():
        assert float((result["parameters"][key] - values).abs().max() / values.abs().max()) <= 1e-5, key


def test_the_oracle_notices_a_wrong_scale_and_missing_dropout(oracle: Any) -> None:
    right, dropped = oracle(case("right"))["loss"], oracle(case("dropped", DROPOUT))["loss"]
    # The scale that dropout gives to what it keeps: a mask that keeps everything would compute this.
    scaled = {**LORA, "alpha": LORA["alpha"] / (1 - DROPOUT["dropout"])}
    kept = lora_reference(case_config({"name": "kept", "lora": scaled, "optimizer": OPTIMIZER}))["loss"]
    assert min(relative(kept, right), relative(dropped, right), relative(dropped, kept)) > 1e-4


def test_dropout_is_a_function_of_places_only() -> None:
    noise, p = Noise.of_step(seed=3, step=7, first_token=640), 0.3
    whole = keep(96, 128, noise, p, "layer")
    assert abs(float(whole.float().mean()) - 0.7) < 0.02
    assert torch.equal(keep(32, 64, noise, p, "layer", first_row=64, first_column=64), whole[64:, 64:])
    assert torch.equal(keep(32, 128, Noise(noise.key, 704), p, "layer"), whole[64:])
    for other in (Noise.of_step(3, 8, 640), Noise.of_step(4, 7, 640), Noise.of_step(3, 7, 641)):
        assert 0.3 < float((keep(96, 128, other, p, "layer") ^ whole).float().mean()) < 0.54  # 2 p (1 - p) = 0.42
    assert not torch.equal(keep(96, 128, noise, p, "another"), whole)
    for share in (whole.float().mean(0), whole.float().mean(1)):  # no row and no column stands out
        assert float((share - 0.7).abs().max()) < 0.2
    kept = drop(torch.ones(96, 128), noise, p, "layer")
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
