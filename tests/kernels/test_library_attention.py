"""Attention of other libraries is called by what each version of them takes; the libraries themselves need a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from megabiomed.kernels.documents import documents_of_lengths
from megabiomed.kernels.library_attention import FLASH4, flash, installed, varlen

varlen_module = pytest.importorskip("torch.nn.attention.varlen")
DOCUMENTS = documents_of_lengths([3, 2])
QUERY, KEY = torch.zeros(5, 4, 8), torch.zeros(5, 2, 8)


def of_torch_2_11(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int,
    *, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    assert cu_seq_q.tolist() == cu_seq_k.tolist() == [0, 3, 5]
    assert (max_q, max_k, window_size) == (3, 3, (-1, 0))
    return query


def of_torch_2_13(
    query: Tensor, key: Tensor, *rest: Any, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False
) -> Tensor:
    assert enable_gqa == (query.size(1) != key.size(1))
    return of_torch_2_11(query, key, *rest, window_size=window_size)


@pytest.mark.parametrize("theirs", [of_torch_2_11, of_torch_2_13])
@pytest.mark.parametrize("key", [KEY, QUERY], ids=["gqa", "mha"])
def test_varlen_is_called_as_this_torch_takes_it(theirs: Any, key: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_module, "varlen_attn", theirs)
    assert varlen(QUERY, key, key, DOCUMENTS) is QUERY


def test_the_installed_torch_takes_this_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from inspect import signature

    theirs = signature(varlen_module.varlen_attn)

    def called(*arguments: Any, **options: Any) -> Tensor:
        theirs.bind(*arguments, **options)
        return QUERY

    called.__signature__ = theirs  # type: ignore[attr-defined]
    monkeypatch.setattr(varlen_module, "varlen_attn", called)
    assert varlen(QUERY, KEY, KEY, DOCUMENTS) is QUERY


def test_flash_attn_gets_the_bounds_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Version 4 has another argument where 2 and 3 have the bounds; it also returns the logarithm of the sums."""
    seen: dict[str, Any] = {}

    def attend(q: Tensor, k: Tensor, v: Tensor, qv: Tensor | None = None, **options: Any) -> tuple[Tensor, None]:
        assert qv is None
        seen.update(options)
        return q, None

    library = ModuleType(FLASH4)
    library.flash_attn_varlen_func = attend  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, FLASH4, library)
    assert flash(QUERY, KEY, KEY, DOCUMENTS, module=FLASH4, exact=True) is QUERY
    assert seen["cu_seqlens_q"].tolist() == seen["cu_seqlens_k"].tolist() == [0, 3, 5]
    assert (seen["max_seqlen_q"], seen["max_seqlen_k"]) == (3, 3)
    assert seen["causal"]
    assert seen["deterministic"]


def test_a_module_inside_a_package_that_is_absent_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not installed("a_library_nobody_has.cute")
    (tmp_path / "has_a_part").mkdir()
    (tmp_path / "has_a_part" / "__init__.py").touch()
    (tmp_path / "has_a_part" / "cute.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert installed("has_a_part.cute")
    assert not installed("has_a_part.other")
