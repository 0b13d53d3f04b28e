"""The same training step with transformers' Llama: layers compiled one by one, documents apart, bf16 weights and gradients.

Gradients of the micro-batches accumulate in bf16, then torch's fused AdamW steps fp32 masters. The batches lie on the device.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megabiomed.config import RunConfig
from megabiomed.data.packing import MicroBatch
from megabiomed.processes import platform

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def transformers(config: RunConfig, batches: list[MicroBatch], kind: str) -> Callable[[int], float]:
    """A step of so many of the micro-batches.

    Args:
        kind: "transformers", the attention ("flex", or "cudnn": SDPA, document by document) and "compiled" or "liger".
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    _, attention, how = kind.split()
    device, dtype = platform.device(), platform.DTYPES[config.train.precision]
    moved = [batch.to(device) for batch in batches]
    name = "flex_attention" if attention == "flex" else _by_document(moved[0])
    if how == "liger":  # its norm, RoPE and SwiGLU replace those of transformers for all models of this process
        from liger_kernel.transformers import apply_liger_kernel_to_llama

        apply_liger_kernel_to_llama(fused_linear_cross_entropy=False)
    known = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    shape = {key: getattr(config.model, key) for key in (*known, "num_key_value_heads", "max_position_embeddings")}
    with device:
        model: Any = LlamaForCausalLM(LlamaConfig(**shape, use_cache=False)).to(dtype)
    model.config._attn_implementation = name
    layers = [torch.compile(layer, dynamic=False) if how == "compiled" else layer for layer in model.model.layers]
    loss = _liger_loss() if how == "liger" else torch.compile(_loss) if platform.has_cuda() else _loss

    # One mask for all micro-batches, which have the same documents, so that no layer is compiled again.
    mask = moved[0].documents.block_mask if attention == "flex" else None  # type: ignore[union-attr]

    def forward(batch: MicroBatch) -> Tensor:
        x = model.model.embed_tokens(batch.tokens[None])  # [1, t, h]
        angles = model.model.rotary_emb(x, position_ids=batch.positions[None])
        for layer in layers:
            x = layer(x, attention_mask=mask, position_embeddings=angles)
        return loss(model.model.norm(x)[0], model.lm_head.weight, batch.labels)

    optimizer = _Optimizer(model, config)

    def step(number: int) -> float:
        total = torch.zeros((), device=device)
        for batch in moved[:number]:
            one = forward(batch) / number
            one.backward()
            total += one.detach()
        optimizer.step()
        return float(total)

    return step


def _loss(x: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight).float(), labels)


def _liger_loss() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    fused: Any = LigerFusedLinearCrossEntropyLoss()
    return lambda x, weight, labels: fused(weight, x, labels)


class _Optimizer:
    """Clipping, torch's fused AdamW on fp32 masters, and the copy back."""

    def __init__(self, model: nn.Module, config: RunConfig) -> None:
        self.parameters = list(model.parameters())
        self.masters = [p.detach().float().requires_grad_() for p in self.parameters]
        self.inner = torch.optim.AdamW(self.masters, lr=config.optimizer.lr, betas=(0.9, 0.95), fused=True)

    def step(self) -> None:
        for master, parameter in zip(self.masters, self.parameters):
            assert parameter.grad is not None
            master.grad, parameter.grad = parameter.grad.float(), None
        nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.inner.step()
        self.inner.zero_grad()
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.masters)


def _by_document(batch: MicroBatch) -> str:
    """Causal SDPA of each document by itself, with cuDNN's kernels where there is a GPU; the name that transformers knows."""
    from transformers import AttentionInterface

    edges: list[int] = batch.documents.cu_seqlens.tolist()  # type: ignore[union-attr]
    if platform.has_cuda():  # left to itself, torch falls back to another kernel without a word
        torch.backends.cuda.enable_cudnn_sdp(True)
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
        torch.backends.cuda.enable_math_sdp(False)

    def attend(
        module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scaling: float | None = None, **_: Any
    ) -> tuple[Tensor, None]:
        parts = [
            F.scaled_dot_product_attention(
                q[:, :, low:high], k[:, :, low:high], v[:, :, low:high], is_causal=True, scale=scaling
            )
            for low, high in pairwise(edges)
        ]
        return torch.cat(parts, dim=2).transpose(1, 2).contiguous(), None  # [1, t, heads, d]

    AttentionInterface.register("sdpa_by_document", attend)
    return "sdpa_by_document"
