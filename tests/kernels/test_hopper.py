"""The Hopper kernels without a Hopper: their source under an adversarial emulator, their machine code, their self-check.

tests/support/gluon.py says what the emulator sees; the last word has the self-check, which runs on the device before use.
"""

from __future__ import annotations

import pytest
import torch
from support.precision import TOLERANCE, assert_close
from torch import Tensor

from megabiomed.ground.errors import ConfigError
from megabiomed.kernels.cpu_attention import rotate
from megabiomed.kernels.dispatch import Site
from megabiomed.kernels.document_attention import Heads, choice, document_attention, rope_attention
from megabiomed.kernels.documents import Documents, documents_of_lengths

triton = pytest.importorskip("triton")
from support.gluon import Emulated  # noqa: E402
from support.gluon_memory import KernelFault  # noqa: E402

from megabiomed.kernels.gluon import backward, check, forward, launch  # noqa: E402

KERNELS = (forward.attention_forward, backward.attention_backward_kv, backward.attention_backward_q)
CPU, BF16 = torch.device("cpu"), torch.bfloat16
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there the self-check runs")


def emulate(
    patch: pytest.MonkeyPatch, seed: int = 0, edit: tuple[str, str] | None = None, passes: bool = False
) -> list[Emulated]:
    """Let the launches run here; the two small Triton passes too with `passes`, else torch takes their place."""
    if not passes:
        patch.setattr(launch, "rotate", lambda x, out, cos, sin, sign: rotate(x, out, cos, sin * sign))
        patch.setattr(launch, "fill_delta", fill_delta)
    kernels = [Emulated(kernel, seed, edit) for kernel in KERNELS]
    for kernel in kernels:
        patch.setattr(launch, kernel.kernel.fn.__name__, kernel)
    return kernels


def fill_delta(out: Tensor, do: Tensor, delta: Tensor) -> None:
    delta[:, : out.size(0)] = (out.float() * do.float()).sum(-1).t()


@pytest.mark.parametrize(
    ("lengths", "heads", "d"),
    [
        ([300], Heads(2, 2), 128),
        ([128, 64, 128], Heads(2, 1), 64),
        ([5, 1, 230, 31], Heads(4, 1), 128),
        ([1] * 150 + [2] * 25, Heads(2, 2), 64),
        ([1], Heads(8, 1), 128),
    ],
)
def test_output_and_gradients_match_fp64(
    lengths: list[int], heads: Heads, d: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulate(monkeypatch, seed=len(lengths), passes=heads == Heads(2, 1))
    errors = check.measure(launch.rope_attention, lengths, heads, d, BF16, CPU, repeats=1)
    assert errors.pop("bits") == 0
    if max(lengths) <= 2:  # hardly any gradient in q and k: all rounding
        errors = {name: errors[name] for name in ("out", "dv")}
    assert max(errors.values()) <= TOLERANCE[BF16], errors


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_partitions_and_copies_changes_a_bit(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for order in (100, seed):
        emulate(monkeypatch, order)
        torch.manual_seed(0)
        qkv = torch.randn(260, 4 * 64).to(BF16).requires_grad_()
        angles = (torch.rand(260, 32), torch.rand(260, 32))
        out = launch.rope_attention(qkv, *angles, documents_of_lengths([200, 60]), Heads(2, 1), in_place=False)
        out.backward(torch.ones_like(out).cumsum(1))
        results.append((out.detach(), qkv.grad))
    for a, b in zip(*results):
        assert torch.equal(a, b)


def test_changing_one_document_changes_no_bit_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    documents, heads = documents_of_lengths([70, 100, 40]), Heads(2, 1)
    angles = (torch.rand(210, 32), torch.rand(210, 32))

    def compute(change: float) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        qkv = torch.randn(210, 4 * 64).to(BF16)
        qkv[70:170] += change
        qkv.requires_grad_()
        out = launch.rope_attention(qkv, *angles, documents, heads, in_place=False)
        out.backward(torch.ones_like(out).cumsum(1))
        assert qkv.grad is not None
        return out.detach(), qkv.grad

    for before, after in zip(compute(0.0), compute(1.0)):
        assert torch.equal(before[:70], after[:70])
        assert torch.equal(before[170:], after[170:])
        assert not torch.equal(before[70:170], after[70:170])


def test_a_row_that_sees_nothing_gives_zeros_and_no_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    bounds = documents_of_lengths([30, 150])
    start = bounds.start.clone()
    start[10] = 160  # after itself: nothing to see
    q, k, v = (torch.randn(180, 2, 64).to(BF16).requires_grad_() for _ in range(3))
    out = launch.document_attention(q, k, v, Documents(start, bounds.end))
    out.backward(torch.ones_like(out))
    assert out[10].eq(0).all()
    assert q.grad is not None
    assert q.grad[10].eq(0).all()
    assert all(torch.isfinite(x.grad).all() for x in (q, k, v))


def test_separate_non_contiguous_tensors_and_rotation_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch)
    documents = documents_of_lengths([20, 1, 150])
    torch.manual_seed(0)
    q, k, v = (torch.randn(h, 171, 64).to(BF16).transpose(0, 1) for h in (4, 2, 2))
    assert_close(launch.document_attention(q, k, v, documents), document_attention(q, k, v, documents), BF16)
    qkv, angles = torch.randn(171, 4 * 64).to(BF16), (torch.rand(171, 32), torch.rand(171, 32))
    kept = rope_attention(qkv, *angles, documents, Heads(2, 1))
    consumed = launch.rope_attention(qkv, *angles, documents, Heads(2, 1), in_place=True)
    assert_close(consumed, kept, BF16)


SEEDED = [
    ("mbarrier.wait(v_full.index(before), turn)", "pass"),
    (
        "mbarrier.wait(k_full.index(stage), phase_of(i, STAGES))",
        "mbarrier.wait(k_full.index(stage), phase_of(i, STAGES) ^ 1)",
    ),
    ("mbarrier.arrive(v_free.index(before), count=1)", "pass"),
    ("mbarrier.wait(k_free.index(stage), turn ^ 1)", "pass"),
    ("mbarrier.wait(free.index(stage), phase_of(i, STAGES) ^ 1)", "pass"),
    ("s = warpgroup_mma_wait(1, deps=[s_flying])", "s = warpgroup_mma_wait(2, deps=[s_flying])"),
    ("k_free = ring(CONSUMERS, STAGES)", "k_free = ring(1, STAGES)"),
    ("    q.store(x)\n    fence_async_shared()", "    q.store(x)"),
    ("mbarrier.wait(kv_full, 0)", "pass"),
    ("tma.store_wait(0)", "pass"),
    ("(n < latest) |", ""),
    ("m + M > nearest", "m + M > nearest + 64"),
    ("turned(dk, COS, SIN, row, T, -1.0, D)", "turned(dk, COS, SIN, row, T, 1.0, D)"),
    ("// N * N", "// N * N + N"),
]


@pytest.mark.parametrize("edit", SEEDED, ids=lambda edit: edit[0][:40])
def test_the_emulator_catches_seeded_bugs(edit: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these is one line away from the kernels; a race may need another order than the first."""
    for seed in range(8):
        kernels = emulate(monkeypatch, seed, edit)
        try:
            errors = check.measure(launch.rope_attention, [90, 390], Heads(1, 1), 64, BF16, CPU, repeats=0)
        except KernelFault:
            break
        assert sum(kernel.edits for kernel in kernels) > 0
        if check.verdict(errors, BF16) is not None:
            break
    else:
        pytest.fail("the bug went unseen")


def test_it_refuses_what_it_was_not_written_for_and_auto_takes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    found = choice(Site("cuda", 90, BF16, 128, deterministic=True))
    assert found.name == "triton"
    assert "not hopper: its self-check on this device failed: no CUDA device" in found.why
    for site, reason in (
        (Site("cpu", 0, BF16, 128), "written for sm_90"),
        (Site("cuda", 80, BF16, 128), "written for sm_90"),
        (Site("cuda", 90, torch.float32, 128), "half precision only"),
        (Site("cuda", 90, BF16, 96), "head size 96 is not 64 or 128"),
        (Site("cuda", 90, BF16, 128), "its self-check on this device failed: no CUDA device"),
    ):
        with pytest.raises(ConfigError, match=f"kernels.attention=hopper cannot serve this run: {reason}"):
            choice(site, "hopper")
    monkeypatch.setattr(check, "refusal", lambda dtype, d: None)
    assert choice(Site("cuda", 90, torch.float16, 64), "hopper").function == (
        launch.document_attention,
        launch.rope_attention,
    )


def test_the_self_check_names_what_is_wrong() -> None:
    assert check.verdict({"out": 4e-3, "dq": 1e-2, "bits": 0.0}, BF16) is None
    wrong = check.verdict({"out": float("nan"), "dq": 0.3, "dk": 1e-3, "bits": 1.0}, BF16)
    assert (
        wrong == "out differs by nan, dq differs by 3.0e-01, two runs give different bits (allowed 1.5e-02 from fp64)"
    )
