"""Document attention against an fp64 dense reference, forward and gradients, and no leak across documents."""

from __future__ import annotations

import pytest
import torch

from megabiomed.kernels.document_attention import Documents, dense, document_attention, per_document


def documents(lengths: list[int]) -> Documents:
    edges = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    repeats = torch.tensor(lengths)
    return Documents(edges[:-1].repeat_interleave(repeats), edges[1:].repeat_interleave(repeats))


def inputs(tokens: int, heads: int, kv_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(0)
    shapes = [(tokens, heads, 16), (tokens, kv_heads, 16), (tokens, kv_heads, 16)]
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("lengths", [[40], [1] * 12, [16, 1, 23], [3, 32, 5]])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 1), (8, 2)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_forward_and_gradients_match_fp64(
    lengths: list[int], heads: int, kv_heads: int, dtype: torch.dtype, tolerance: float
) -> None:
    docs = documents(lengths)
    ours = inputs(sum(lengths), heads, kv_heads, dtype)
    exact = [x.detach().double().requires_grad_() for x in ours]
    out, expected = document_attention(*ours, docs), dense(*exact, docs)
    seed = torch.randn_like(expected)
    out.backward(seed.to(dtype))
    expected.backward(seed)
    assert out.dtype == dtype
    for got, want in [(out, expected), *((a.grad, b.grad) for a, b in zip(ours, exact))]:
        assert got is not None
        assert want is not None
        assert (got.double() - want).norm() <= tolerance * max(float(want.norm()), 1.0)


@pytest.mark.parametrize("backend", [per_document, dense])
def test_changing_one_document_changes_no_bit_of_another(backend: object) -> None:
    docs = documents([9, 14, 7])
    q, k, v = (x.detach() for x in inputs(30, 4, 2, torch.float32))
    before = backend(q, k, v, docs)  # type: ignore[operator]
    for x in (q, k, v):
        x[9:23] += 1.0
    after = backend(q, k, v, docs)  # type: ignore[operator]
    assert torch.equal(before[:9], after[:9])
    assert torch.equal(before[23:], after[23:])
    assert not torch.equal(before[9:23], after[9:23])


def test_bounds_are_read_from_start() -> None:
    docs = documents([2, 3, 1])
    assert docs.cu_seqlens.tolist() == [0, 2, 5, 6]
    assert docs.bounds == [(0, 2), (2, 5), (5, 6)]
    assert docs.longest == 3
