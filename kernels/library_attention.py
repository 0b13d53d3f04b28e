"""Document-masked attention of other libraries: torch's varlen and FlexAttention, Dao-AILab's flash-attn 2, 3 and 4.

Each takes q [t, heads, d], k and v [t, kv_heads, d] and the documents, and returns [t, heads, d]; none rotates.
"""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor

from megabiomed.kernels.documents import Documents

FLASH4, FLASH3 = "flash_attn.cute", "flash_attn_interface"
FLASH2 = "flash_attn.flash_attn_interface"  # flash_attn alone may be the package around version 4


def installed(module: str) -> bool:
    """True when a module, perhaps inside a package, can be found."""
    try:
        return find_spec(module) is not None
    except ImportError:  # the package around it is absent, or broken
        return False


def varlen(query: Tensor, key: Tensor, value: Tensor, documents: Documents) -> Tensor:
    """torch's variable-length flash attention (FlashAttention-2)."""
    from torch.nn.attention.varlen import varlen_attn

    cu, longest = documents.cu_seqlens, documents.longest
    options = {"enable_gqa": query.size(1) != key.size(1)} if _asks_for_gqa(varlen_attn) else {}
    # A window of (-1, 0): all tokens of the document before, none after, which is the causal mask.
    return cast(Tensor, varlen_attn(query, key, value, cu, cu, longest, longest, window_size=(-1, 0), **options))


@lru_cache(maxsize=4)
def _asks_for_gqa(function: Any) -> bool:
    """torch 2.13 wants to be told of fewer key/value heads than query heads; 2.11 has no such argument and takes them."""
    return "enable_gqa" in signature(function).parameters


def flash(query: Tensor, key: Tensor, value: Tensor, documents: Documents, *, module: str, exact: bool) -> Tensor:
    """Dao-AILab's flash-attn 2, 3 or 4, by the module that has its function."""
    cu, longest = documents.cu_seqlens, documents.longest
    # By name: the three disagree about what stands between `value` and the bounds.
    bounds = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
    attend = import_module(module).flash_attn_varlen_func
    out = attend(query, key, value, causal=True, deterministic=exact, **bounds)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def flex(query: Tensor, key: Tensor, value: Tensor, documents: Documents, backend: str | None = None) -> Tensor:
    """torch FlexAttention, compiled, under a block mask that is built once per micro-batch.

    Args:
        backend: of `torch.nn.attention.flex_attention.FlexKernelOptions`, such as "FLASH"; None leaves it to torch.
    """
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (query, key, value))  # [1, heads, t, d]
    options: dict[str, Any] = {"kernel_options": {"BACKEND": backend}} if backend else {}
    options |= {"block_mask": documents.block_mask, "enable_gqa": query.size(1) != key.size(1)}
    return cast(Tensor, _compiled_flex()(q, k, v, **options))[0].transpose(0, 1)


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)
