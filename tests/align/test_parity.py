"""Encoder-first training on several processes equals one process: losses, norms and parameters after three steps."""

from __future__ import annotations

import ast
import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from support.alignment import CONTENTS, SEQ, align_config, global_batch, run_config
from support.lora import plain_lora_model
from support.parity import _hugging_face
from support.spawn import run_ranks

from megabiomed.checkpoint.logical import Box
from megabiomed.data.packing import IGNORE_INDEX
from megabiomed.encoders.build_encoders import build_encoders
from megabiomed.encoders.esm2.model import ProteinBatch
from megabiomed.encoders.gin.model import MoleculeBatch
from megabiomed.encoders.lora import is_lora, item_noise, set_dropout
from megabiomed.kernels.dropout import Noise
from megabiomed.model.fresh import SeededInit

WORKER = Path(__file__).with_name("parity_worker.py")
ENCODERS = {"molecule": "full", "protein": "full"}
ALL = {**ENCODERS, "language_model": "full"}


LORA = {"molecule": "lora", "protein": "lora"}
ADAPTERS = {"language_model": "lora"}
SHORT = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "zero": "zero_stage", "sp": "sequence_parallel",
         "engine": "engine"}  # fmt: skip


def case(name: str, content: str = "mixed", stage: Any = ENCODERS, **more: Any) -> Any:
    parallel = {SHORT[key]: value for key, value in more.items() if key in SHORT}
    rest = {key: value for key, value in more.items() if key not in SHORT}
    return {"name": name, "content": content, "stage": stage, "parallel": parallel, **rest}


WORLDS = {
    2: [
        case("tp2", tp=2),
        case("tp2-all", stage=ALL, tp=2, zero=0),
        case("pp2", pp=2),
        case("pp2-all-zero3", stage=ALL, placement="zero3", pp=2, zero=3),
        case("dp2-adaptors", stage={}),
        *(case(f"dp2-zero3-{content}", content, placement="zero3") for content in CONTENTS),
        case("pp2-text-only", "text-only", pp=2),
        case("dp2-lm-zero3", "half-text", stage={"language_model": "full"}, zero=3),
        case("tp2-all-sequence-parallel", stage=ALL, tp=2, sp=True, zero=1),
        case("tp2-sequence-parallel-text", "text-only", tp=2, sp=True),
        case("tp2-resampler", tp=2, adaptor="resampler"),
        case("dp2-resampler-no-protein", "no-protein", adaptor="resampler", placement="zero3"),
        case("tp2-lora", stage=LORA, tp=2, adaptor="linear"),
        case("pp2-lora-dropout", stage=LORA, pp=2, dropout=0.2),
        case("dp2-lora-zero3", "no-molecule", stage=LORA, placement="zero3", dropout=0.1),
        case("dp2-one-rank-encodes-frozen", stage={}, encoder_ranks=[1]),
        case("dp2-one-rank-encodes-zero3", placement="zero3", encoder_ranks=[0]),
        case("tp2-lm-lora", "half-text", stage=ADAPTERS, tp=2, lm_dropout=0.1),
        case("tp2-lm-lora-sequence-parallel", stage=ADAPTERS, tp=2, sp=True),
        case("pp2-lm-lora", stage={**LORA, **ADAPTERS}, pp=2, zero=2),
        case("dp2-lm-lora-zero3", stage=ADAPTERS, zero=3),
        case("dp2-gat", molecule="gat", placement="zero3"),
        case("dp2-cache", stage={"molecule": "full"}, cache="CACHE"),
        *(case(f"one-encodes-{content}", content, stage=ALL, beside=1) for content in ("mixed", "text-only")),
        case("one-encodes-zero3", stage=ALL, placement="zero3", beside=1, zero=3),
        case("one-encodes-frozen-lm", stage=LORA, beside=1, dropout=0.1, adaptor="resampler"),
    ],
    3: [
        case("tp2-one-encodes", beside=1, tp=2),
        case("tp2-sequence-parallel-one-encodes", stage={**ALL, **ADAPTERS}, beside=1, tp=2, sp=True),
        case("pp2-one-encodes", "half-text", stage=ALL, beside=1, pp=2, zero=0),
        case("dp2-fsdp2-one-encodes", stage=ALL, beside=1, engine="fsdp2"),
        case("dp2-one-encodes-adapters", stage=ADAPTERS, beside=1, lm_dropout=0.1, zero=2),
    ],
    4: [
        case("tp2-dp2-zero3", placement="zero3", tp=2),
        case("tp2-dp2-all-zero3", stage=ALL, placement="zero3", tp=2, zero=3),
        case("tp2-pp2", tp=2, pp=2),
        case("tp2-pp2-sequence-parallel-lora", stage=LORA, placement="zero3", tp=2, pp=2, sp=True, dropout=0.1),
        case("tp2-pp2-giant", "one-giant-protein", placement="zero3", tp=2, pp=2),
        case("dp2-zero3-two-encode-zero3", stage=ALL, placement="zero3", beside=2, zero=3),
        case("tp2-two-encode-no-protein", "no-protein", stage=LORA, placement="zero3", beside=2, tp=2, dropout=0.1),
    ],
    5: [
        case("tp2-pp2-one-encodes", stage=ALL, beside=1, tp=2, pp=2),
        case("tp2-dp2-zero3-one-encodes", stage=ALL, placement="zero3", beside=1, tp=2, zero=3),
    ],
}


def oracle(case: dict[str, Any]) -> dict[str, Any]:
    """transformers' Llama with inputs_embeds, encoders called once per item, torch AdamW, everything in one process."""
    config, align = run_config(case), align_config(case)
    stage = align.stages[0]
    encoders, adaptors = build_encoders(align, config.model.hidden_size, config.seed)
    # Items are encoded one by one here: recomputed later, one would take the dropout masks of another.
    encoders["protein"].config = align.protein.model_copy(update={"activation_checkpointing": False})
    model, adapters = plain_lora_model(config) if config.lora else (_reference_model(config), {})
    side = [p for name in encoders for key, p in encoders[name].named_parameters()
            if getattr(stage, name) == "full" or (getattr(stage, name) == "lora" and is_lora(f".{key}"))]  # fmt: skip
    side += list(adaptors.parameters())
    groups = [side, [p for p in model.parameters() if p.requires_grad]] if stage.language_model != "frozen" else [side]
    settings, optimizers = config.optimizer, []
    for group in groups:
        parts = [{"params": [p for p in group if (p.dim() > 1) == m], "weight_decay": settings.weight_decay * m}
                 for m in (True, False)]  # fmt: skip
        betas = (settings.beta1, settings.beta2)
        optimizers.append(torch.optim.AdamW(parts, lr=1e-2, betas=betas, eps=settings.eps))
    losses, norms = [], []
    for step in range(3):
        samples, numbers = global_batch(case, step), count()
        tokens = sum(int((s["labels"] != IGNORE_INDEX).sum()) for s in samples)
        noises = (item_noise(config.seed, step, number) for number in numbers)
        loss = 0.0
        for number, sample in enumerate(samples):
            if config.lora and config.lora.dropout:
                for adapter in adapters.values():
                    adapter.noise = Noise.of_step(config.seed, step, number * SEQ)
            loss = loss + _loss(sample, model, encoders, adaptors, noises) / tokens
        loss.backward()
        for group in groups:
            for p in group:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        norms.append(sum(float(torch.nn.utils.clip_grad_norm_(g, settings.clip_grad_norm)) ** 2 for g in groups) ** 0.5)
        for optimizer in optimizers:
            optimizer.step()
        for module in (model, encoders, adaptors):
            module.zero_grad()
        losses.append(float(loss))
    named = {f"encoder.{n}": p for n, p in encoders.named_parameters()}
    named |= {f"adaptor.{n}": p for n, p in adaptors.named_parameters()}
    held = dict(model.named_parameters())
    for matrix, adapter in adapters.items():
        held |= dict(zip((factor.name for factor in matrix.factors(len(adapter.a))), (adapter.a, adapter.b)))
    return {"loss": losses, "norm": norms, "side": named, "lm": held}


def _reference_model(config: Any) -> Any:
    return _hugging_face(config.model, SeededInit(config.model, config.seed))


def _loss(sample: Any, model: Any, encoders: Any, adaptors: Any, noises: Any) -> torch.Tensor:
    x = model.model.embed_tokens(torch.from_numpy(sample["tokens"]))
    for held in sample["items"]:
        make = MoleculeBatch if held["modality"] == "molecule" else ProteinBatch
        batch = make.of([held["features"]])
        set_dropout(encoders[held["modality"]], batch.rows, [next(noises)])
        rows = adaptors[held["modality"]](encoders[held["modality"]](batch), batch.rows)
        x = torch.cat((x[: held["at"]], rows, x[held["at"] + held["rows_out"] :]))
    logits = model(inputs_embeds=x[None]).logits[0]
    labels = torch.from_numpy(sample["labels"])
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


@pytest.fixture(scope="session")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    done: dict[int, Path] = {}

    def of(world: int) -> Path:
        if world not in done:
            folder = done[world] = tmp_path_factory.mktemp(f"align{world}")
            (folder / "cases.json").write_text(json.dumps(WORLDS[world]).replace("CACHE", str(folder / "cache")))
            run_ranks(world, [str(WORKER), str(folder / "cases.json"), str(folder)], folder / "logs", timeout_s=240)
        return done[world]

    return of


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("world", "number"),
    [
        pytest.param(world, number, id=held["name"], marks=[pytest.mark.slow] if world > 2 else [])
        for world, cases in WORLDS.items()
        for number, held in enumerate(cases)
    ],
)
def test_alignment_equals_one_process(world: int, number: int, computed: Any) -> None:
    wanted, folder = WORLDS[world][number], computed(world)
    expected = oracle(wanted)
    ranks = [torch.load(folder / f"{wanted['name']}.{rank}.pt", weights_only=True) for rank in range(world)]
    if "beside" in wanted:  # each half holds nothing of the other's
        size = world - wanted["beside"]
        assert [bool(result["side"]) for result in ranks] == [rank >= size for rank in range(world)]
        assert not any(result["lm"] for result in ranks[size:])
    for result in ranks:
        for key in ("loss", "norm"):
            assert result[key] == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key
        for name, value in result["side"].items():
            # Biases begin at zero and are no larger than a few steps of Adam; matrices are about one tenth.
            scale = max(0.1, float(expected["side"][name].detach().abs().max()))
            assert float((value - expected["side"][name]).abs().max()) / scale <= 1e-5, name
        for key, value in result["lm"].items():
            name, offset, shape = key.split("|")
            whole = Box.whole(name, tuple(expected["lm"][name].shape))
            box = Box(name, whole.shape, ast.literal_eval(offset), ast.literal_eval(shape))
            target = expected["lm"][name].detach()[box.slices_in(whole)]
            scale = max(0.1 * (".lora_" in name), float(expected["lm"][name].abs().max()))
            assert float((value - target).abs().max()) / scale <= 1e-5, name
