"""The parity problem with adapters: transformers' Llama with plain LoRA linears in one process, W x + alpha / r * B A x."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from megabiomed.checkpoint.logical import Box
from megabiomed.config import RunConfig
from megabiomed.data.packing import IGNORE_INDEX
from megabiomed.kernels.dropout import Noise, keep
from megabiomed.model.fresh import AdapterInit, SeededInit
from megabiomed.model.registry import architecture_of
from megabiomed.model.tensors import LogicalTensor
from support.parity import GLOBAL_BATCH, SEQ, STEPS, _hugging_face, _hugging_face_loss, global_batches

LORA = {"rank": 4, "alpha": 16.0}
# B starts at zero, so that first gradients are small, and Adam's sign-like steps would show the rounding of fp32.
OPTIMIZER = {"eps": 1e-3}


class PlainLora(nn.Module):
    """A frozen linear with an adapter, as the paper writes it; `noise` and the place of the window choose the dropout."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor, scale: float, layer: str, p: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.layer = layer
        self.p = p
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)
        self.noise: Noise | None = None

    def forward(self, x: Tensor) -> Tensor:
        low = x
        if self.noise is not None:
            mask = keep(x.shape[-2], x.shape[-1], self.noise, self.p, self.layer)
            low = x * mask.float() / (1 - self.p)
        return self.base(x) + self.scale * ((low @ self.a.t()) @ self.b.t())


def lora_reference(config: RunConfig) -> dict[str, Any]:
    """Losses, norms and final adapters of STEPS clipped AdamW steps."""
    assert config.lora is not None
    model, adapters = plain_lora_model(config)
    trained = [p for adapter in adapters.values() for p in (adapter.a, adapter.b)]
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        trained, lr=settings.lr, betas=(settings.beta1, settings.beta2), eps=settings.eps,
        weight_decay=settings.weight_decay,
    )  # fmt: skip
    losses, norms = [], []
    for step, windows in zip(range(STEPS), global_batches(config)):
        count, total = sum(int((w.labels != IGNORE_INDEX).sum()) for w in windows), 0.0
        for number, window in enumerate(windows):
            if config.lora.dropout:
                for adapter in adapters.values():
                    adapter.noise = Noise.of_step(config.seed, step, number * SEQ)
            loss = _hugging_face_loss(model, window) / count
            loss.backward()
            total += float(loss.detach())
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, settings.clip_grad_norm)))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    assert len(windows) == GLOBAL_BATCH
    parameters = {}
    for matrix, adapter in adapters.items():
        a, b = matrix.factors(config.lora.rank)
        parameters |= {a.name: adapter.a.detach().clone(), b.name: adapter.b.detach().clone()}
    return {"loss": losses, "grad_norm": norms, "parameters": parameters}


def plain_lora_model(config: RunConfig) -> tuple[Any, dict[LogicalTensor, PlainLora]]:
    assert config.lora is not None
    model = _hugging_face(config.model, SeededInit(config.model, config.seed))
    model.requires_grad_(False)
    fresh = AdapterInit(config.model, config.seed)
    adapters = {}
    for matrix in architecture_of(config.model).adapted(config.lora):
        parent_name, _, leaf = matrix.module.rpartition(".")
        parent = model.get_submodule(parent_name)
        a, b = (fresh.read(Box.whole(factor.name, factor.shape)) for factor in matrix.factors(config.lora.rank))
        adapter = PlainLora(
            getattr(parent, leaf), a, b, config.lora.scale, _layer(config, matrix.name), config.lora.dropout
        )
        setattr(parent, leaf, adapter)
        adapters[matrix] = adapter
    return model, adapters


def _layer(config: RunConfig, matrix: str) -> str:
    """Fused matrices share their input and its dropout, which is named after the first of them."""
    for fused in (("q", "k", "v"), ("gate", "up")):
        if any(f".{part}_proj." in matrix for part in fused):
            assert config.lora is not None
            first = next(part for part in fused if part in architecture_of(config.model).targets(config.lora))
            stem = matrix.rsplit(".", 2)[0]
            return f"{stem}.{first}_proj.weight"
    return matrix
