"""Causal attention over packed documents: row i sees j iff start[i] <= j <= i.

Two int32 per token describe the documents, with static shapes: `start[i]`, first token of i's document part, and `end[i]`,
one past its last. `rope_attention` takes the fused projection and rotates inside, `document_attention` takes q, k, v and does
not rotate. No backend ignores document bounds; one that cannot honour them is not in the list.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from megabiomed.kernels.dispatch import (
    AUTO,
    Backend,
    Choice,
    Site,
    choose,
    needs_cpu,
    needs_triton,
    serves_all,
    site_of,
    site_on,
)
from megabiomed.kernels.documents import Documents
from megabiomed.kernels.library_attention import FLASH2, FLASH3, FLASH4, flash, flex, installed, varlen
from megabiomed.kernels.rope import apply_rope

Attention = Callable[[Tensor, Tensor, Tensor, Documents], Tensor]


# Gluon changes between minor versions: 3.9 does not compile these kernels any more.
GLUON_VERSIONS = ("3.6.", "3.7.")


class Heads(NamedTuple):
    """Query and key/value heads of this rank."""

    query: int
    key_value: int


def document_attention(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents, backend: str = AUTO, deterministic: bool = False
) -> Tensor:
    """Softmax(q k^T / sqrt(d)) v inside each document.

    Args:
        query: [t, heads, d].
        key, value: [t, kv_heads, d]; heads is a multiple of kv_heads (GQA).
        deterministic: two backward passes must give the same bits.

    Returns:
        [t, heads, d], same type as `query`.
    """
    plain, _ = choice(site_of(query, deterministic), backend).function
    return cast(Tensor, plain(query, key, value, documents))


def rope_attention(
    qkv: Tensor,
    cos: Tensor,
    sin: Tensor,
    documents: Documents,
    heads: Heads,
    *,
    backend: str = AUTO,
    deterministic: bool = False,
    in_place: bool = False,
) -> Tensor:
    """Rotate q and k of a fused projection and attend.

    Args:
        qkv: [t, (heads + 2 kv_heads) d], columns ordered q, k, v.
        cos, sin: [t, d/2] fp32 at each token's position.
        in_place: the backend may overwrite q and k in `qkv`; never when it is read again, as by recomputation.

    Returns:
        [t, heads d], same type as `qkv`.
    """
    width = qkv.size(1) // (heads.query + 2 * heads.key_value)
    plain, fused = choice(site_on(qkv.device, qkv.dtype, width, deterministic), backend).function
    if fused is not None:
        return cast(Tensor, fused(qkv, cos, sin, documents, heads, in_place))
    q, k, v = split_heads(qkv, heads)
    return cast(Tensor, plain(apply_rope(q, cos, sin), apply_rope(k, cos, sin), v, documents)).flatten(1)


def split_heads(qkv: Tensor, heads: Heads) -> tuple[Tensor, ...]:
    """Views q [t, hq, d], k and v [t, hkv, d] of [t, (hq + 2 hkv) d]."""
    parts = qkv.unflatten(1, (heads.query + 2 * heads.key_value, -1))  # [t, hq + 2 hkv, d]
    return parts.split([heads.query, heads.key_value, heads.key_value], dim=1)


def reference(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """SDPA under an explicit [t, t] mask, quadratic in memory; a row that sees nothing gives zeros."""
    index = torch.arange(query.size(0), device=query.device)
    visible = (index[None, :] <= index[:, None]) & (index[None, :] >= documents.start[:, None])
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # [1, heads, t, d]
    gqa = query.size(1) != key.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=gqa)[0].transpose(0, 1)


def _refuse_triton(site: Site) -> str | None:
    if site.width > 128 or site.width % 2:
        return f"head size {site.width} is not an even number up to 128"
    return needs_triton(site)


def _refuse_hopper(site: Site) -> str | None:
    if site.device != "cuda" or site.arch != 90:
        return "written for sm_90"
    if site.dtype not in (torch.bfloat16, torch.float16):
        return "half precision only"
    if site.width not in (64, 128):
        return f"head size {site.width} is not 64 or 128"
    if find_spec("triton") is None:
        return "triton is not installed"
    if not version("triton").startswith(GLUON_VERSIONS):
        return f"compiled and checked with Triton {'x and '.join(GLUON_VERSIONS)}x, this is {version('triton')}"
    from megabiomed.kernels.gluon.check import refusal

    return refusal(site.dtype, site.width)


def _refuse_library(site: Site, module: str | None = None, newest_only: bool = False, exact: bool = True) -> str | None:
    if site.device != "cuda":
        return "needs a GPU"
    if module is not None and not installed(module):
        return f"{module} is not installed"
    if site.dtype not in (torch.bfloat16, torch.float16):
        return "half precision only"
    if newest_only and site.arch != 90:
        return "written for sm_90"
    if site.deterministic and not exact:  # gradients of Q are added by atomics
        return "its backward adds in no fixed order"
    return f"head size {site.width} is not a multiple of 8 up to 256" if site.width % 8 or site.width > 256 else None


def _triton() -> tuple[Attention, Callable[..., Tensor]]:
    from megabiomed.kernels.triton import attention_op

    return attention_op.document_attention, attention_op.rope_attention


def _hopper() -> tuple[Attention, Callable[..., Tensor]]:
    from megabiomed.kernels.gluon import launch

    return launch.document_attention, launch.rope_attention


def _self_check(site: Site) -> str:
    from megabiomed.kernels.gluon.check import self_check

    return self_check(site.dtype, site.width).sentence


def _flash_backend(name: str, module: str, note: str, newest_only: bool = False) -> Backend:
    refuse = partial(_refuse_library, module=module, newest_only=newest_only)
    return Backend(name, refuse, lambda: (partial(flash, module=module, exact=True), None), note)


def _cpu() -> tuple[Attention, Callable[..., Tensor]]:
    from megabiomed.kernels import cpu_attention

    return cpu_attention.per_document, cpu_attention.rope_per_document


# In order of preference. On an H100 (8,192 tokens, 32 heads of 128, bf16, RoPE included) `hopper` takes 0.65 + 1.59 ms forward
# and backward, `triton` 0.94 + 2.36, `flex` 1.93 + 3.32, `varlen` 2.06 + 4.01, `dense` 4.90 + 11.12 (docs/kernels.md). The
# versions of flash-attn were not there to be measured; they stand after what was.
BACKENDS = (
    Backend("per_document", needs_cpu, _cpu, "no work across documents, one pass over the projection"),
    Backend(
        "hopper", _refuse_hopper, _hopper, "warp-specialised, the fastest measured on an H100", evidence=_self_check
    ),
    Backend(
        "triton", _refuse_triton, _triton, "RoPE fused, deterministic backward; ahead of varlen and flex on an H100"
    ),
    _flash_backend("flash4", FLASH4, "FlashAttention-4"),
    _flash_backend("flash3", FLASH3, "FlashAttention-3", newest_only=True),
    Backend("varlen", partial(_refuse_library, exact=False), lambda: (varlen, None), "torch's FlashAttention-2"),
    _flash_backend("flash2", FLASH2, "FlashAttention-2 with its deterministic backward"),
    Backend("flex", partial(_refuse_library, exact=False), lambda: (flex, None), "compiled at the first step"),
    Backend("dense", serves_all, lambda: (reference, None), "the reference, quadratic in memory"),
)


def choice(site: Site, wanted: str = AUTO) -> Choice:
    """The backend that serves a site, and why."""
    return choose("attention", BACKENDS, site, wanted)
