"""Where the device's time of one step goes, by class of kernel, and what makes the host wait in it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch

from bench.host_syncs import counted_syncs
from bench.lines import Lines
from megabiomed.processes import platform
from megabiomed.runs.kernel_classes import Span, busy, by_class, class_of

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


def summary(spans: list[Span]) -> list[dict[str, Any]]:
    """A row for each class and for the gaps, the longest first; classes that overlap sum to more than the whole."""
    rows: list[tuple[str, int, int]] = list(by_class(spans))
    whole, covered = busy(spans)
    overlap = sum(ns for _, ns, _ in rows) - covered
    rows += [("gaps", whole - covered, 0), ("overlap", overlap, 0), ("whole step", whole, len(spans))]
    return [
        {"candidate": name, "ms": round(ns / 1e6, 3), "share": f"{ns / max(whole, 1):.1%}", "kernels": count}
        for name, ns, count in rows
    ]


def profile_step(lines: Lines, case: str, step: Callable[[], object], longest: int = 25) -> None:
    """Profile a step that is warm, then count what makes the host wait in another one."""
    spans, waits = _recorded(step)
    for row in summary(spans):
        lines.row(section="profile", case=case, **row)
    by_kernel: dict[str, list[int]] = defaultdict(list)
    for span in spans:
        by_kernel[span.name].append(span.end - span.start)
    for name, held in sorted(by_kernel.items(), key=lambda item: -sum(item[1]))[:longest]:
        found = {"class": class_of(name), "ms": round(sum(held) / 1e6, 3), "calls": len(held)}
        lines.row(section="longest kernels", case=case, candidate=name[:140], **found)
    with counted_syncs() as places:
        step()
    for call, count in (waits + Counter(places)).most_common():
        lines.row(section="host waits", case=case, candidate=call, count=count)
    lines.row(section="host waits", case=case, candidate="synchronising calls in all", count=sum(places.values()))


def _recorded(step: Callable[[], object]) -> tuple[list[Span], Counter[str]]:
    """Kernels of a step, and calls of the runtime that wait; on a CPU torch's own operations, nested as they are."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = platform.has_cuda()
    platform.synchronize()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        step()
        platform.synchronize()
    events = profiled.profiler.kineto_results.events()
    wanted = torch.autograd.DeviceType.CUDA if on_gpu else torch.autograd.DeviceType.CPU
    spans = [
        Span(event.name(), event.start_ns(), event.start_ns() + event.duration_ns())
        for event in events
        if event.device_type() == wanted and event.duration_ns() > 0
    ]
    return spans, Counter(event.name() for event in events if event.name() in WAITS)
