"""`megabiomed bench kernels`: the time of every backend that can serve here, what `auto` takes for each operation and why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from megabiomed.kernels.bench_cases import CASES, Case, Forward, Shapes
from megabiomed.kernels.dispatch import interpreting

BYTES_FLUSHED = 256 * 2**20  # more than any GPU's cache, so that every repeat reads from memory
FLUSHES = 6  # about 0.6 ms of an H100


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
        forward_rate, backward_rate: that work divided by the time: TFLOP/s for products, GB/s for everything else.
        note: why it was chosen, what it is, or why it did not run.
    """

    op: str
    candidate: str
    chosen: bool
    note: str
    forward_ms: float | None = None
    backward_ms: float | None = None
    forward_share: float | None = None
    backward_share: float | None = None
    forward_rate: str | None = None
    backward_rate: str | None = None


def measure_roofline(shapes: Shapes) -> Roofline:
    """A square matrix product and a copy, large enough for this kind of device to reach its speed."""
    # Measured in the same run, not taken from a data sheet: clocks, power limits and neighbours change what can be reached.
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
            passed_over = f"not by auto: {backend.forced_only}" if backend.forced_only else backend.note
            if reason is None and backend.name == "triton" and shapes.device.type == "cpu" and interpreting():
                reason = "the interpreter is a test tool"
            if reason is None:
                note = f"chosen: {case.choice.why}" if chosen else passed_over
                yield case, _candidate(case, backend.name, case.calls[backend.name], note, chosen, repeats, roofline)
            else:
                yield case, Timing(op, backend.name, chosen, f"refuses: {reason}")
        for name, peer in case.peers.items():
            if peer.call is None:
                yield case, Timing(op, name, False, peer.note)
            else:
                yield case, _candidate(case, name, peer.call, peer.note, False, repeats, roofline)


def standing(case: Case, timings: list[Timing]) -> str | None:
    """By how much the backend that `auto` takes is ahead of the best other candidate that computes the same.

    Args:
        timings: of all candidates of this operation.
    """
    others = {name for name, peer in case.peers.items() if peer.yardstick}
    took = {
        t.candidate: t.forward_ms + (t.backward_ms or 0.0)
        for t in timings
        if t.forward_ms is not None and t.candidate not in others
    }
    mine = took.pop(case.choice.name, None)
    if mine is None or not took:
        return None
    rival = min(took, key=lambda name: took[name])
    figures = f"{mine:.3f} against {took[rival]:.3f} ms"
    if mine <= took[rival]:
        return f"auto's {case.choice.name} is {took[rival] / mine:.2f} times as fast as the next, {rival}: {figures}"
    return f"auto's {case.choice.name} is not the fastest here: {rival} takes {took[rival] / mine:.2f} of its time, {figures}"


def _candidate(
    case: Case, name: str, forward: Forward, note: str, chosen: bool, repeats: int, roofline: Roofline
) -> Timing:
    device = torch.device(case.site.device)
    try:
        forward_ms, backward_ms = _forward_backward(forward, case.leaves, device, repeats)
    except Exception as error:  # one candidate's failure is a line of the table, not the end of it
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        return Timing(case.op, name, chosen, f"failed: {first_line}")
    work = case.work
    ahead = _judge(work.forward_flops, work.forward_bytes, forward_ms, roofline)
    back = _judge(work.backward_flops, work.backward_bytes, backward_ms, roofline) if backward_ms else (None, None)
    return Timing(case.op, name, chosen, note, forward_ms, backward_ms, ahead[0], back[0], ahead[1], back[1])


def _judge(flops: float, moved: float, ms: float, roofline: Roofline) -> tuple[float, str]:
    """(share of the roofline, rate): the least possible time over the measured one, and the work over the measured time."""
    least_ms = max(flops / roofline.tflops / 1e9, moved / roofline.gbytes / 1e6)
    if not flops:
        return least_ms / ms, f"{moved / ms / 1e6:.4g} GB/s"
    tflops = flops / ms / 1e9
    return least_ms / ms, f"{tflops:.3g} TFLOP/s" if tflops >= 1 else f"{tflops * 1e3:.3g} GFLOP/s"


def _forward_backward(
    forward: Forward, leaves: list[Tensor], device: torch.device, repeats: int
) -> tuple[float, float | None]:
    """Best milliseconds of forward (with what backward needs) and of backward alone, None without leaves."""
    if not leaves:
        return min(_times(forward, device, repeats)), None
    seeds: list[Tensor] = []

    def outputs() -> tuple[Tensor, ...]:
        results = forward()
        return results if isinstance(results, tuple) else (results,)

    def backward(results: tuple[Tensor, ...]) -> None:
        for leaf in leaves:
            leaf.grad = None  # adding into an old gradient would be timed too
        torch.autograd.backward(results, seeds)

    first = outputs()
    # A loss is where backward starts, with the gradient 1; another factor would add a pass that no training step has.
    seeds.extend(torch.ones_like(out) if out.numel() == 1 else torch.randn_like(out) for out in first)
    backward(first)
    del first
    ahead, back = [], []
    for _ in range(repeats):
        clock = _Clock(device)
        results = outputs()
        ahead.append(clock.stop())
        clock = _Clock(device)
        backward(results)
        back.append(clock.stop())
    return min(ahead), min(back)


def _times(call: Forward, device: torch.device, repeats: int) -> list[float]:
    call()  # compiles, and fills caches and the allocator
    times = []
    for _ in range(repeats):
        clock = _Clock(device)
        call()
        times.append(clock.stop())
    return times


class _Clock:
    """Milliseconds since construction: CUDA events behind a flushed cache, or wall time.

    As in a training step, the host is ahead of the device: flushing takes longer than it takes to enqueue an operation, so
    that the device does not wait between two kernels, and what is timed is the device alone.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        if self.cuda:
            flushed = torch.empty(BYTES_FLUSHED // 4, device=device)
            for _ in range(FLUSHES):
                flushed.zero_()
            flushed.sum()  # a read at the end: written lines would go back to memory while the operation is timed
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
