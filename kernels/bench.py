"""`megabiomed bench kernels`: every backend of every operation that can serve here, timed, with what `auto` takes and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megabiomed.kernels.bench_cases import CASES, Case, Forward, Shapes, Work
from megabiomed.kernels.dispatch import interpreting

BYTES_FLUSHED = 256 * 2**20  # more than any GPU's cache, so that every repeat reads from memory


@dataclass(frozen=True)
class Roofline:
    """What this device reached in the same run: matrix product in TFLOP/s, copy in GB/s."""

    tflops: float
    gbytes: float


@dataclass(frozen=True)
class Timing:
    """One candidate of one operation.

    Attributes:
        forward_ms, backward_ms: best of the repeats; None when it did not run.
        forward_share, backward_share: of the roofline, by the least work of the operation.
        note: why it was chosen, what it is, or why it did not run.
    """

    op: str
    candidate: str
    chosen: bool
    forward_ms: float | None
    backward_ms: float | None
    forward_share: float | None
    backward_share: float | None
    note: str


def measure_roofline(shapes: Shapes) -> Roofline:
    """A square matrix product and a copy, as large as the device deserves."""
    big = shapes.device.type == "cuda"
    n = 8192 if big else 1024
    a, b = (torch.randn(n, n, device=shapes.device).to(shapes.dtype) for _ in range(2))
    source = torch.empty((2**30 if big else 2**26) // 4, device=shapes.device)
    target = torch.empty_like(source)
    product_ms = min(_times(lambda: a @ b, shapes.device, 10))
    copy_ms = min(_times(lambda: target.copy_(source), shapes.device, 10))
    return Roofline(2 * n**3 / product_ms / 1e9, 2 * source.numel() * 4 / copy_ms / 1e6)


def run(shapes: Shapes, ops: list[str], repeats: int, roofline: Roofline) -> Iterator[tuple[Case, Timing]]:
    """Time every candidate of the wanted operations, one after another."""
    for op in ops:
        torch.manual_seed(0)
        case = CASES[op](shapes)
        for backend in case.backends:
            chosen = backend.name == case.choice.name
            reason = backend.refuse(case.site)
            if reason is None and backend.name == "triton" and shapes.device.type == "cpu" and interpreting():
                reason = "the interpreter is a test tool"
            if reason is None:
                note = f"chosen: {case.choice.why}" if chosen else backend.note
                yield case, _candidate(case, backend.name, case.calls[backend.name], note, chosen, repeats, roofline)
            else:
                yield case, Timing(op, backend.name, chosen, None, None, None, None, f"refuses: {reason}")
        for name, (forward, note) in case.peers.items():
            yield case, _candidate(case, name, forward, note, False, repeats, roofline)


def _candidate(
    case: Case, name: str, forward: Forward, note: str, chosen: bool, repeats: int, roofline: Roofline
) -> Timing:
    device = case.leaves[0].device
    try:
        forward_ms, backward_ms = _forward_backward(forward, case.leaves, device, repeats)
    except (RuntimeError, torch.OutOfMemoryError, NotImplementedError) as error:
        first_line = str(error).strip().splitlines()[0][:120]
        return Timing(case.op, name, chosen, None, None, None, None, f"failed: {first_line}")
    shares = _shares(case.work, forward_ms, backward_ms, roofline)
    return Timing(case.op, name, chosen, forward_ms, backward_ms, *shares, note)


def _shares(work: Work, forward_ms: float, backward_ms: float, roofline: Roofline) -> tuple[float, float]:
    """Least possible time by the roofline, divided by the measured one."""

    def least_ms(flops: float, moved: float) -> float:
        return max(flops / roofline.tflops / 1e9, moved / roofline.gbytes / 1e6)

    forward = least_ms(work.forward_flops, work.forward_bytes) / forward_ms
    return forward, least_ms(work.backward_flops, work.backward_bytes) / max(backward_ms, 1e-6)


def _forward_backward(
    forward: Forward, leaves: list[Tensor], device: torch.device, repeats: int
) -> tuple[float, float]:
    """Best milliseconds of forward (with what backward needs) and of backward alone."""
    seeds: list[Tensor] = []

    def outputs() -> tuple[Tensor, ...]:
        found = forward()
        return found if isinstance(found, tuple) else (found,)

    def backward(found: tuple[Tensor, ...]) -> None:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(found, seeds)

    first = outputs()
    seeds.extend(torch.randn_like(out) for out in first)
    backward(first)
    del first
    ahead, back = [], []
    for _ in range(repeats):
        clock = _Clock(device)
        found = outputs()
        ahead.append(clock.stop())
        clock = _Clock(device)
        backward(found)
        back.append(clock.stop())
    return min(ahead), min(back)


def _times(call: Forward, device: torch.device, repeats: int) -> list[float]:
    call()
    found = []
    for _ in range(repeats):
        clock = _Clock(device)
        call()
        found.append(clock.stop())
    return found


class _Clock:
    """Milliseconds since construction: CUDA events behind a flushed cache, or wall time."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            torch.empty(BYTES_FLUSHED // 4, device=device).zero_()
            self.began, self.ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self.began.record()
        else:
            self.time = time.perf_counter()

    def stop(self) -> float:
        if not self.cuda:
            return (time.perf_counter() - self.time) * 1e3
        self.ended.record()
        self.ended.synchronize()
        return float(self.began.elapsed_time(self.ended))
