"""Document attention against an fp64 dense reference, forward and gradients, and no leak across documents."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from support.precision import assert_close
from torch import Tensor

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.dispatch import Site, choose
from megabiomed.kernels.document_attention import (
    Heads,
    choice,
    document_attention,
    reference,
    rope_attention,
    split_heads,
)
from megabiomed.kernels.documents import Documents, documents_of_lengths
from megabiomed.kernels.rope import apply_rope, rope_frequencies, rope_table

FP32, BF16 = torch.float32, torch.bfloat16
LENGTHS = {
    "one-document": [100],
    "exact-blocks": [64, 32, 64],
    "ragged": [5, 1, 70, 31],
    "200-tiny-documents": [1] * 150 + [2] * 50,
    "many": [3] * 30 + [10],
}
HEADS = {"mha": Heads(2, 2), "gqa4": Heads(4, 1), "gqa8": Heads(8, 1)}
# (lengths, heads, head_dim): every length, ratio and head size once, not their product; `gpu` runs the product.
SMALL = [
    ("one-document", "mha", 64),
    ("exact-blocks", "gqa4", 80),
    ("ragged", "gqa8", 96),
    ("200-tiny-documents", "mha", 128),
    ("many", "gqa4", 64),
]
FULL = [(lengths, heads, d) for lengths in LENGTHS for heads in HEADS for d in (64, 80, 96, 128)]
BACKENDS = ["per_document", "triton", "dense"]


def make_qkv(tokens: int, heads: Heads, d: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    torch.manual_seed(0)
    width = (heads.query + 2 * heads.key_value) * d
    return torch.randn(tokens, width, dtype=torch.float64).to(dtype).to(device)


def angles(documents: Documents, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    index = torch.arange(documents.start.numel(), device=device) - documents.start
    # A scale other than 1, as YaRN has: a backward pass that turned back by the inverse, not by the transpose, would show.
    cos, sin = rope_table(rope_frequencies(d, 10000.0), 4096, device, scale=1.1)
    return cos[index], sin[index]


def rope_reference(qkv: Tensor, documents: Documents, heads: Heads, d: int) -> Tensor:
    """In fp64, RoPE included."""
    cos, sin = (angle.double() for angle in angles(documents, d, qkv.device))
    q, k, v = split_heads(qkv, heads)
    rotated = [
        torch.cat(
            (
                x[..., : d // 2] * cos[:, None] - x[..., d // 2 :] * sin[:, None],
                x[..., d // 2 :] * cos[:, None] + x[..., : d // 2] * sin[:, None],
            ),
            -1,
        )
        for x in (q, k)
    ]
    return reference(*rotated, v, documents).flatten(1)


def skip_foreign(backend: str, device: torch.device) -> None:
    if backend == "per_document" and device.type != "cpu":
        pytest.skip("a CPU path")


def check(backend: str, lengths: list[int], heads: Heads, d: int, dtype: torch.dtype, device: torch.device) -> None:
    documents = documents_of_lengths(lengths, device)
    ours = make_qkv(sum(lengths), heads, d, dtype, device).requires_grad_()
    exact = ours.detach().double().requires_grad_()
    cos, sin = angles(documents, d, device)
    out = rope_attention(ours, cos, sin, documents, heads, backend=backend)
    truth = rope_reference(exact, documents, heads, d)
    seed = torch.randn_like(truth).to(dtype)
    out.backward(seed)
    truth.backward(seed.double())
    assert out.dtype == dtype
    assert_close(out, truth, dtype, "out")
    assert ours.grad is not None
    assert exact.grad is not None
    for name, a, b in zip("qkv", split_heads(ours.grad, heads), split_heads(exact.grad, heads)):
        if b.norm() > 1e-9:  # one-token documents have no gradient in q and k
            assert_close(a, b, dtype, f"d{name}")
        else:
            assert a.abs().max() <= 1e-2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("lengths", "heads", "d"), SMALL)
def test_rope_attention_and_its_gradients_match_fp64(
    backend: str, lengths: str, heads: str, d: int, dtype: torch.dtype, device: torch.device
) -> None:
    skip_foreign(backend, device)
    check(backend, LENGTHS[lengths], HEADS[heads], d, dtype, device)


def skip_unwilling(backend: str, dtype: torch.dtype, d: int) -> None:
    try:
        choice(Site("cuda", _arch(), dtype, d), backend)
    except ConfigError as refusal:
        pytest.skip(str(refusal))


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "hopper", "varlen", "flash4", "flash3", "flash2", "flex"])
@pytest.mark.parametrize("dtype", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("lengths", "heads", "d"), FULL)
def test_full_grid_on_a_gpu(backend: str, lengths: str, heads: str, d: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    skip_unwilling(backend, dtype, d)
    check(backend, LENGTHS[lengths], HEADS[heads], d, dtype, device)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "hopper"])
@pytest.mark.parametrize("documents", [1, 200])
@pytest.mark.parametrize("d", [64, 80, 96, 128])
def test_production_windows_on_a_gpu(backend: str, documents: int, d: int) -> None:
    device, tokens = torch.device("cuda"), 4096
    skip_unwilling(backend, BF16, d)
    lengths = [tokens // documents] * (documents - 1)
    check(backend, [*lengths, tokens - sum(lengths)], Heads(8, 2), d, BF16, device)


def _arch() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


@pytest.mark.parametrize("backend", BACKENDS)
def test_separate_non_contiguous_tensors(backend: str, device: torch.device) -> None:
    skip_foreign(backend, device)
    documents = documents_of_lengths([20, 1, 30], device)
    torch.manual_seed(0)
    ours = [torch.randn(h, 51, 64, device=device).transpose(0, 1).requires_grad_() for h in (4, 2, 2)]
    exact = [x.detach().double().requires_grad_() for x in ours]
    out, truth = document_attention(*ours, documents, backend=backend), reference(*exact, documents)
    seed = torch.randn_like(truth).transpose(0, 1).contiguous().transpose(0, 1)
    out.backward(seed.float())
    truth.backward(seed.float().double())
    assert_close(out, truth, FP32)
    for a, b in zip(ours, exact):
        assert_close(a.grad, b.grad, FP32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_changing_one_document_changes_no_bit_of_another(backend: str, device: torch.device) -> None:
    """Forward and backward: the middle document's inputs change, all bits of the others stay."""
    skip_foreign(backend, device)
    documents, heads = documents_of_lengths([30, 37, 23], device), Heads(4, 2)
    cos, sin = angles(documents, 64, device)

    def compute(change: float) -> tuple[Tensor, Tensor]:
        qkv = make_qkv(90, heads, 64, FP32, device)
        qkv[30:67] += change
        qkv.requires_grad_()
        out = rope_attention(qkv, cos, sin, documents, heads, backend=backend)
        out.backward(torch.ones_like(out).cumsum(0))
        assert qkv.grad is not None
        return out.detach(), qkv.grad

    for before, after in zip(compute(0.0), compute(1.0)):
        assert torch.equal(before[:30], after[:30])
        assert torch.equal(before[67:], after[67:])
        assert not torch.equal(before[30:67], after[30:67])


@pytest.mark.parametrize("backend", ["per_document", "triton"])
def test_two_backward_passes_give_the_same_bits(backend: str, device: torch.device) -> None:
    skip_foreign(backend, device)
    documents, heads = documents_of_lengths([40, 30], device), Heads(4, 1)
    gradients = []
    for _ in range(2):
        qkv = make_qkv(70, heads, 64, BF16, device).requires_grad_()
        out = rope_attention(qkv, *angles(documents, 64, device), documents, heads, backend=backend, deterministic=True)
        out.backward(torch.ones_like(out))
        gradients.append(qkv.grad)
    assert torch.equal(*gradients)


def test_a_row_that_sees_nothing_gives_zeros_and_no_nan(device: torch.device) -> None:
    bounds = documents_of_lengths([30, 34], device)
    start = bounds.start.clone()
    start[10] = 40  # after itself: nothing to see
    documents = Documents(start, bounds.end)
    q, k, v = (torch.randn(64, 2, 64, device=device, requires_grad=True) for _ in range(3))
    out = document_attention(q, k, v, documents, backend="triton")
    out.backward(torch.ones_like(out))
    assert out[10].eq(0).all()
    assert q.grad[10].eq(0).all()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_in_place_rotation_gives_the_same_bits_and_consumes_the_projection(device: torch.device) -> None:
    documents, heads = documents_of_lengths([33, 17], device), Heads(2, 1)
    cos, sin = angles(documents, 64, device)
    kept, consumed = (make_qkv(50, heads, 64, FP32, device) for _ in range(2))
    a = rope_attention(kept, cos, sin, documents, heads, backend="triton")
    b = rope_attention(consumed, cos, sin, documents, heads, backend="triton", in_place=True)
    assert torch.equal(a, b)
    q, _, v = split_heads(consumed, heads)
    assert_close(q, apply_rope(split_heads(kept, heads)[0], cos, sin), FP32)
    assert torch.equal(v, split_heads(kept, heads)[2])


@pytest.mark.parametrize("backend", ["per_document", "triton"])
def test_gradcheck_of_the_wrapper(backend: str, device: torch.device) -> None:
    """The Triton kernels compute in fp32, so their numeric derivative is taken with a coarse step."""
    skip_foreign(backend, device)
    documents, heads = documents_of_lengths([3, 1, 2], device), Heads(2, 1)
    dtype, step, tolerance = (torch.float64, 1e-6, 1e-5) if backend == "per_document" else (FP32, 1e-2, 2e-2)
    qkv = make_qkv(6, heads, 16, dtype, device).requires_grad_()
    cos, sin = angles(documents, 16, device)
    assert torch.autograd.gradcheck(
        lambda x: rope_attention(x, cos, sin, documents, heads, backend=backend),
        (qkv,),
        eps=step,
        atol=tolerance,
        rtol=tolerance,
        fast_mode=True,
    )


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "hopper"])
def test_bits_on_a_gpu_do_not_change_with_time_nor_with_other_documents(backend: str) -> None:
    """Forward and backward, 20 times, with another middle document every second time."""
    device, heads = torch.device("cuda"), Heads(8, 2)
    documents = documents_of_lengths([700, 1, 900, 447], "cuda")
    skip_unwilling(backend, BF16, 128)
    first: list[Tensor] = []
    for repeat in range(20):
        qkv = make_qkv(2048, heads, 128, BF16, device)
        qkv[701:1601] += repeat % 2
        qkv.requires_grad_()
        out = rope_attention(qkv, *angles(documents, 128, device), documents, heads, backend=backend)
        out.backward(torch.ones_like(out).cumsum(0))
        assert qkv.grad is not None
        found = [part for x in (out.detach(), qkv.grad) for part in (x[:701], x[1601:])]
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(first, found))


def test_bounds_are_read_from_start() -> None:
    docs = documents_of_lengths([2, 3, 1])
    assert docs.end.tolist() == [2, 2, 5, 5, 5, 6]
    assert docs.cu_seqlens.tolist() == [0, 2, 5, 6]
    assert docs.bounds == [(0, 2), (2, 5), (5, 6)]
    assert docs.longest == 3


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        (Site("cpu", 0, BF16, 128), "per_document"),
        (Site("cuda", 90, BF16, 128), "hopper"),
        (Site("cuda", 90, torch.float16, 64, deterministic=True), "hopper"),
        (Site("cuda", 90, BF16, 96), "triton"),
        (Site("cuda", 90, FP32, 128), "triton"),
        (Site("cuda", 100, BF16, 128), "triton"),
        (Site("cuda", 80, BF16, 256), "varlen"),
        (Site("cuda", 80, BF16, 256, deterministic=True), "dense"),
        (Site("cuda", 80, BF16, 128, deterministic=True), "triton"),
        (Site("cuda", 80, FP32, 64), "triton"),
        (Site("cuda", 70, FP32, 64), "dense"),
    ],
)
def test_auto_takes_what_was_measured_fastest_and_says_why(
    site: Site, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    self_check_passes(monkeypatch)
    found = choice(site)
    assert found.name == expected
    assert found.why


def self_check_passes(patch: pytest.MonkeyPatch, reason: str | None = None) -> None:
    """What the self-check of the Hopper kernels would have said."""
    from megabiomed.kernels.gluon import check, verdict

    choose.cache_clear()
    said = verdict.Verdict(reason, 21.0, "2026-11-27T01:00:00+00:00")
    patch.setattr(check, "self_check", lambda dtype, d: said)


def test_hopper_shows_its_verdict_and_the_next_serves_where_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site("cuda", 90, BF16, 128)
    self_check_passes(monkeypatch)
    assert "fastest measured on an H100; not per_document: a CPU path; self-check passed in 21 s" in choice(site).why
    self_check_passes(monkeypatch, "out differs by 3.0e-01")
    found = choice(site)
    assert found.name == "triton"
    assert "not hopper: its self-check on this device failed: out differs by 3.0e-01" in found.why
    assert "--recheck" in found.why
    with pytest.raises(ConfigError, match=r"hopper cannot serve this run: its self-check.*to auto or triton"):
        choice(site, "hopper")


@pytest.fixture(autouse=True)
def _choices_made_anew() -> Iterator[None]:
    yield
    choose.cache_clear()


def test_a_forced_backend_that_cannot_serve_is_refused_with_what_can() -> None:
    with pytest.raises(
        ConfigError, match=r"kernels\.attention=varlen cannot serve this run: needs a GPU.*per_document"
    ):
        choice(Site("cpu", 0, FP32, 64), "varlen")
    with pytest.raises(ConfigError, match="its backward adds in no fixed order"):
        choice(Site("cuda", 90, BF16, 128, deterministic=True), "varlen")
