"""The parity problem: one tiny model, fixed packed batches, and an independent single-process oracle (transformers)."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from megabiomed.config import LoraConfig, ModelConfig, RunConfig
from megabiomed.data.packing import IGNORE_INDEX, Window, pack_window
from megabiomed.model.as_transformers import as_transformers
from megabiomed.model.fresh import SeededInit
from megabiomed.model.registry import architecture_of

STEPS = 5
SEQ = 32
GLOBAL_BATCH = 8
MODEL = {
    "vocab_size": 251,  # odd: every tensor-parallel size pads its last shard
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.08,
}
# Adam's first steps are sign-like: with a tiny eps they would turn fp32 rounding into visible differences.
OPTIMIZER = {"lr": 1e-2, "eps": 1e-4, "weight_decay": 0.1, "clip_grad_norm": 0.5, "schedule": "constant"}


SHORT = {"tp": "tensor_parallel_size", "pp": "pipeline_parallel_size", "zero": "zero_stage", "sp": "sequence_parallel"}


def parallel_of(**parallel: Any) -> dict[str, Any]:
    """The section `parallel` of a case, whose longest keys may be written short: `tp=2, zero=1`."""
    return {SHORT.get(key, key): value for key, value in parallel.items()}


def case_config(case: dict[str, Any]) -> RunConfig:
    """The run configuration of one case: {"name", "parallel": {...}, optional "precision", "micro_batch_size", "model",
    "lora", "optimizer", "kernels"}."""
    return RunConfig.model_validate(
        {
            "name": case["name"],
            "seed": 7,
            "model": {**MODEL, **case.get("model", {})},
            "lora": case.get("lora"),
            "parallel": case.get("parallel", {}),
            "kernels": case.get("kernels", {}),
            "data": {
                "seq_length": SEQ,
                "micro_batch_size": case.get("micro_batch_size", 1),
                "global_batch_size": GLOBAL_BATCH,
            },
            "optimizer": {**OPTIMIZER, **case.get("optimizer", {})},
            "train": {"steps": STEPS, "precision": case.get("precision", "fp32")},
        }
    )


def global_batches(config: RunConfig) -> Iterator[list[Window]]:
    """Endless batches of packed windows with documents of 1 to 20 tokens, so that masks and cuts matter."""
    rng = np.random.default_rng(3)
    while True:
        windows = []
        for _ in range(GLOBAL_BATCH):
            lengths: list[int] = []
            while sum(lengths) < SEQ + 1:
                lengths.append(int(rng.integers(1, 21)))
            tokens = rng.integers(0, config.model.vocab_size, SEQ + 1)
            windows.append(pack_window(tokens, np.cumsum(lengths)))
        yield windows


def reference(config: RunConfig, disturbed: bool = False) -> dict[str, Any]:
    """transformers' model in one process with dense masks, torch AdamW, clipping: losses, norms, visible pairs, parameters.

    Args:
        disturbed: begin with weights that are one unit in the last place off, up or down at random: what the steps make of
            that is what they make of any rounding.
    """
    model = _hugging_face(config.model, SeededInit(config.model, config.seed))
    if disturbed:
        dice = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.nextafter(p, torch.where(torch.rand(p.shape, generator=dice) < 0.5, -1e9, 1e9)))
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    losses = []
    norms = []
    pairs = []
    tensors = []
    for _, windows in zip(range(STEPS), global_batches(config)):
        count = sum(int((w.labels != IGNORE_INDEX).sum()) for w in windows)
        total = 0.0
        for window in windows:
            loss = _hugging_face_loss(model, window) / count
            loss.backward()
            total += float(loss)
        tensors.append({name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None})
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        pairs.append(sum(int(_visible(window).sum()) for window in windows))
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    return {
        "loss": losses, "grad_norm": norms, "visible_pairs": pairs, "parameters": parameters, "gradient_norms": tensors,
    }  # fmt: skip


def _hugging_face(config: ModelConfig, source: SeededInit) -> Any:
    return as_transformers(config, source, torch.float32, 1, 2).train()


def _hugging_face_loss(model: Any, window: Window) -> torch.Tensor:
    positions = torch.from_numpy(np.arange(SEQ) - window.start).long()
    logits = model(
        input_ids=torch.from_numpy(np.asarray(window.tokens)).long()[None],
        attention_mask=torch.from_numpy(_visible(window))[None, None],
        position_ids=positions[None],
    ).logits[0]
    labels = torch.from_numpy(np.asarray(window.labels)).long()
    return torch.nn.functional.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="sum")


def _visible(window: Window) -> NDArray[np.bool_]:
    """[s, s]: whether a row sees a column."""
    index = np.arange(SEQ)
    return (index[None, :] <= index[:, None]) & (index[None, :] >= window.start[:, None])


def read_case(folder: Path, lora: LoraConfig | None = None, model: ModelConfig | None = None) -> dict[str, Any]:
    """What the ranks of a case wrote, with parameters assembled from their boxes; asserts that boxes agree and cover."""
    result = json.loads((folder / "curve.json").read_text())
    shapes = architecture_of(model or ModelConfig(**MODEL)).trained_shapes(lora)
    full: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("rank_*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118
                _, kind, name, offset, shape = key.split("|")
                if kind == "param":
                    _place(
                        full,
                        shapes[name],
                        name,
                        ast.literal_eval(offset),
                        ast.literal_eval(shape),
                        tensors.get_tensor(key),
                    )
    result["parameters"] = full
    return result


def _place(
    full: dict[str, torch.Tensor],
    whole: tuple[int, ...],
    name: str,
    offset: tuple[int, ...],
    shape: tuple[int, ...],
    values: Any,
) -> None:
    target = full.setdefault(name, torch.full(whole, float("nan")))
    where = tuple(slice(o, o + n) for o, n in zip(offset, shape))
    held = target[where]
    # Ranks that hold the same box (replicas, replicated norms) must hold the same values.
    assert torch.isnan(held).all() or (held - values).abs().max() <= 1e-6, f"replicas of {name} differ"
    target[where] = values
