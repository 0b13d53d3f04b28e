"""Self-check of the Hopper kernels before they are used: packed windows against fp64, forward, gradients and bits.

It runs once for a kind of machine (verdict.py), in a process of its own, since a kernel that hangs or writes outside must not
take a training run with it:
python -m megabiomed.kernels.gluon.check --head-dim 128 --dtype bfloat16
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache, partial

import torch
from torch import Tensor

from megabiomed.kernels.document_attention import Heads, reference, split_heads
from megabiomed.kernels.documents import documents_of_lengths
from megabiomed.kernels.gluon.verdict import Verdict, identity_of, now, remembered
from megabiomed.kernels.rope import apply_rope, rope_frequencies, rope_table

NO_DEVICE = "no CUDA device"
NOT_NOW = 75  # exit status: the device was busy or full, which says nothing about the kernels
LIMIT_S = 180  # compiling the kernels is part of it, seconds each
# Of the relative L2 distance; one rounding of the probabilities and one of the result, as the Triton kernels are allowed.
TOLERANCE = {torch.bfloat16: 1.5e-2, torch.float16: 3e-3}
# Documents of one token, of exactly a tile, over several tiles and straddling them; MHA and GQA.
WINDOWS = [
    ([1, 127, 128, 64, 300, 1, 5, 143], Heads(2, 2)),
    ([700], Heads(4, 1)),
    ([3] * 50 + [61], Heads(8, 2)),
]
REPEATS = 10  # a race may spare the first launch

RopeAttention = Callable[..., Tensor]


def measure(
    attention: RopeAttention,
    lengths: list[int],
    heads: Heads,
    d: int,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int = REPEATS,
) -> dict[str, float]:
    """Relative L2 distance to fp64 of the output and each gradient; "bits" is 1 when a repeat gave different ones."""
    torch.manual_seed(0)
    documents, width = documents_of_lengths(lengths, device), (heads.query + 2 * heads.key_value) * d
    values = torch.randn(sum(lengths), width).to(dtype).to(device)
    seed = torch.randn(sum(lengths), heads.query * d).to(dtype).to(device)
    positions = torch.arange(len(values), device=device) - documents.start  # [t], from 0 in every document
    cos, sin = (x[positions] for x in rope_table(rope_frequencies(d, 10000.0), len(values), device))

    def run() -> tuple[Tensor, ...]:
        leaf = values.clone().requires_grad_()
        out = attention(leaf, cos, sin, documents, heads, in_place=False)
        out.backward(seed)
        assert leaf.grad is not None
        return (out.detach(), *split_heads(leaf.grad, heads))

    exact = values.double().requires_grad_()
    q, k, v = split_heads(exact, heads)
    truth = reference(apply_rope(q, cos, sin), apply_rope(k, cos, sin), v, documents).flatten(1)
    truth.backward(seed.double())
    assert exact.grad is not None
    first, wanted = run(), (truth.detach(), *split_heads(exact.grad, heads))
    errors = {
        name: float((a.double() - b).norm() / b.norm().clamp_min(1e-12))
        for name, a, b in zip(("out", "dq", "dk", "dv"), first, wanted)
    }
    same = all(torch.equal(a, b) for _ in range(repeats) for a, b in zip(first, run()))
    return errors | {"bits": 0.0 if same else 1.0}


def verdict(errors: dict[str, float], dtype: torch.dtype) -> str | None:
    """What is wrong, or None."""
    wrong = [name for name, error in errors.items() if not error <= TOLERANCE[dtype]]  # NaN is wrong too
    if not wrong:
        return None
    parts = [f"{name} differs by {errors[name]:.1e}" for name in wrong if name != "bits"]
    parts += ["two runs give different bits"] if "bits" in wrong else []
    return f"{', '.join(parts)} (allowed {TOLERANCE[dtype]:.1e} from fp64)"


def refusal(dtype: torch.dtype, d: int) -> str | None:
    """Why the kernels must not run on the current CUDA device, or None."""
    found = self_check(dtype, d)
    return None if found.reason is None else found.sentence


@lru_cache(maxsize=32)
def self_check(dtype: torch.dtype, d: int) -> Verdict:
    """The verdict for the current CUDA device: remembered by this machine, or found now."""
    if not torch.cuda.is_available():
        return Verdict(NO_DEVICE, 0.0, now(), lasting=False)
    device = torch.device("cuda", torch.cuda.current_device())
    check = partial(_in_a_process, dtype, d, device.index)
    return remembered(identity_of(device, dtype, d), check, wait_s=LIMIT_S + 30)


def _in_a_process(dtype: torch.dtype, d: int, index: int) -> Verdict:
    command = [sys.executable, "-m", __name__, "--head-dim", str(d), "--dtype", str(dtype).removeprefix("torch.")]
    command += ["--device", str(index)]
    began = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(f"it did not end within {LIMIT_S} s", LIMIT_S, now())
    seconds = round(time.monotonic() - began, 1)
    if done.returncode == 0:
        return Verdict(None, seconds, now())
    last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    ended_from_outside = -done.returncode in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    passing = ended_from_outside or done.returncode == NOT_NOW or last == NO_DEVICE
    return Verdict(last[:300], seconds, now(), lasting=not passing)


def main() -> None:
    from megabiomed.kernels.gluon.launch import HEAD_SIZES, rope_attention

    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--head-dim", type=int, choices=HEAD_SIZES, required=True)
    options.add_argument("--dtype", choices=[str(x).removeprefix("torch.") for x in TOLERANCE], default="bfloat16")
    options.add_argument("--device", type=int, default=0, help="index of the CUDA device")
    asked = options.parse_args()
    if not torch.cuda.is_available():
        sys.exit(NO_DEVICE)
    device, dtype = torch.device("cuda", asked.device), getattr(torch, asked.dtype)
    began = time.monotonic()
    try:
        torch.cuda.set_device(device)
        torch.zeros(64 * 2**20, device=device)  # more than all windows take
    except RuntimeError as error:
        print(f"this device cannot be used now: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(NOT_NOW)
    for lengths, heads in WINDOWS:
        errors = measure(rope_attention, lengths, heads, asked.head_dim, dtype, device)
        print(f"{sum(lengths)} tokens, {len(lengths)} documents, heads {heads.query}/{heads.key_value}: {errors}")
        wrong = verdict(errors, dtype)
        if wrong is not None:
            sys.exit(wrong)
    print(f"passed in {time.monotonic() - began:.1f} s, compilation included")


if __name__ == "__main__":
    main()
