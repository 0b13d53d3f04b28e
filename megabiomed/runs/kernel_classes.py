"""Where the time of a device goes: kernels, or operations on a CPU, in classes by their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

CLASSES = (
    ("communication", r"nccl|gloo|c10d|all_?reduce|all_?gather|reduce_?scatter"),
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
_COLLECTIVES = re.compile(
    r"all_?reduce|reduce_?scatter|all_?gather|all_?to_?all|broadcast|send_?recv|\bsend\b|\brecv\b|barrier|reduce", re.I
)


class Span(NamedTuple):
    """One kernel, nanoseconds."""

    name: str
    start: int
    end: int


class Share(NamedTuple):
    """Nanoseconds and number of the kernels of one class."""

    name: str
    ns: int
    calls: int


def class_of(kernel: str) -> str:
    """The class of a kernel by its name."""
    return next((name for name, pattern in CLASSES if re.search(pattern, kernel, re.IGNORECASE)), "other")


def collective_of(kernel: str) -> str | None:
    """The collective that a kernel of the class communication carries out, as torch names it: `all_reduce`."""
    if class_of(kernel) != "communication" or (found := _COLLECTIVES.search(kernel)) is None:
        return None
    return re.sub(r"(?<=[a-z])_?(?=reduce|scatter|gather|to|all|recv)", "_", found[0].lower()).replace("__", "_")


def by_class(spans: Iterable[Span]) -> list[Share]:
    """The classes of these kernels, the longest first; those that overlap sum to more than the time that passed."""
    return shares((class_of(span.name), span.end - span.start, 1) for span in spans)


def shares(parts: Iterable[tuple[str, int, int]]) -> list[Share]:
    """(name, nanoseconds, number) summed by name, the longest first."""
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, ns, count in parts:
        sums[name][0] += ns
        sums[name][1] += count
    return sorted((Share(name, *held) for name, held in sums.items()), key=lambda share: -share.ns)


def busy(spans: Iterable[Span]) -> tuple[int, int]:
    """(nanoseconds from the first start to the last end, those in which at least one of them ran)."""
    first = last = covered = 0
    for span in sorted(spans, key=lambda span: span.start):
        first = first or span.start
        covered += max(0, span.end - max(span.start, last))
        last = max(last, span.end)
    return last - first, covered
