"""Where the device's time of one step goes, by class of kernel, and what makes the host wait in it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

from bench.host_syncs import counted_syncs
from bench.lines import Lines
from megabiomed.processes import platform

CLASSES = (
    ("communication", r"nccl|all_?reduce|all_?gather|reduce_?scatter"),
    ("attention", r"attention|flash|fmha|flex|^rope|rotary"),
    ("loss", r"vocabulary|cross_entropy|nll_loss|log_?softmax"),
    ("norm", r"rms_?norm|layer_?norm"),
    ("SwiGLU", r"swiglu|silu"),
    ("optimizer", r"adam|lamb|multi_tensor_apply|clip|lpnorm|linalg_vector_norm"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|matmul|cublas|split_?k|aten::(mm|addmm|bmm|linear)\b"),
    ("copies and casts", r"copy|memcpy|catarray|aten::(cat|to|_to_copy)\b"),
    ("accumulation", r"functor_add|addfunctor|aten::add_?\b"),
    ("fills", r"memset|fill"),
    ("embedding", r"embedding|indexselect|index_select|gather"),
)
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")


class Span(NamedTuple):
    """One kernel, nanoseconds."""

    name: str
    start: int
    end: int


def class_of(kernel: str) -> str:
    """The class of a kernel by its name."""
    return next((name for name, pattern in CLASSES if re.search(pattern, kernel, re.IGNORECASE)), "other")


def busy(spans: Iterable[Span]) -> tuple[int, int]:
    """(nanoseconds from the first start to the last end, those in which at least one of them ran)."""
    first = last = covered = 0
    for span in sorted(spans, key=lambda span: span.start):
        first = first or span.start
        covered += max(0, span.end - max(span.start, last))
        last = max(last, span.end)
    return last - first, covered


def summary(spans: list[Span]) -> list[dict[str, Any]]:
    """A row for each class and for the gaps, the longest first; classes that overlap sum to more than the whole."""
    times: dict[str, list[int]] = defaultdict(list)
    for span in spans:
        times[class_of(span.name)].append(span.end - span.start)
    whole, covered = busy(spans)
    rows = [(name, sum(held), len(held)) for name, held in times.items()]
    rows.sort(key=lambda row: -row[1])
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
