"""Two models compared tensor by tensor: checkpoints of any topology and Hugging Face folders, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import isfinite, prod, sqrt
from pathlib import Path
from typing import Any

import torch

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.logical import Box, TensorSource
from megabiomed.checkpoint.uses import MODEL
from megabiomed.model.hf_config import model_config_from_hf
from megabiomed.model.hf_folder import HuggingFaceSource
from megabiomed.model.registry import architecture_of

_BLOCK = 4 * 2**20  # elements in memory of each side


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        shapes: full shape of each logical tensor.
        kinds: what is stored of each tensor.
    """

    path: Path
    source: TensorSource
    shapes: dict[str, tuple[int, ...]]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class TensorDifference:
    """How one tensor differs.

    Attributes:
        problem: in words, where values cannot be compared (missing, other shape); else None.
        differing: elements that are not equal; two NaNs are.
        max_abs: largest absolute difference; infinite where only one side is NaN.
        relative: norm of the difference over the norm of the first.
    """

    name: str
    kind: str
    problem: str | None = None
    differing: int = 0
    max_abs: float = 0.0
    relative: float = 0.0

    @property
    def equal(self) -> bool:
        """Equal to the bit, but for the sign of zero and the payload of NaN."""
        return self.problem is None and self.differing == 0

    def values(self) -> dict[str, Any]:
        """For JSON, which has no infinity: that becomes a word."""
        return {k: str(v) if isinstance(v, float) and not isfinite(v) else v for k, v in asdict(self).items()}


def open_side(path: Path) -> Side:
    """A checkpoint, a run folder (its newest valid checkpoint) or a Hugging Face folder."""
    located = locate(path).expect(MODEL)
    if located.is_hugging_face:
        return Side(
            path, HuggingFaceSource(path), architecture_of(model_config_from_hf(path, length=1)).shapes, ("param",)
        )
    checkpoint = located.open()
    kinds = tuple(sorted(checkpoint.manifest.kinds(), key=lambda kind: (kind != "param", kind)))  # weights first
    return Side(checkpoint.path, checkpoint, checkpoint.shapes, kinds)


def common_kinds(a: Side, b: Side) -> tuple[str, ...]:
    """What both sides store; a Hugging Face folder has no moments to compare."""
    return tuple(kind for kind in a.kinds if kind in b.kinds)


def work(a: Side, b: Side) -> int:
    """Elements that `differences` will compare, for a progress bar."""
    both = (prod(a.shapes[name]) for name in a.shapes if a.shapes[name] == b.shapes.get(name))
    return sum(both) * len(common_kinds(a, b))


def differences(a: Side, b: Side, advance: Callable[[int], None] = lambda count: None) -> Iterator[TensorDifference]:
    """One record for each tensor and kind, equal ones too, in the order of the first side.

    Args:
        advance: called with the number of elements that were compared.
    """
    for name in [*a.shapes, *(name for name in b.shapes if name not in a.shapes)]:
        for kind in common_kinds(a, b):
            ours, theirs = a.shapes.get(name), b.shapes.get(name)
            if ours is None or theirs is None:
                yield TensorDifference(name, kind, f"only in {(b if ours is None else a).path}")
            elif ours != theirs:
                yield TensorDifference(name, kind, f"shape {ours} and {theirs}")
            else:
                yield _compare(a.source, b.source, name, ours, kind, advance)


def _compare(
    a: TensorSource,
    b: TensorSource,
    name: str,
    shape: tuple[int, ...],
    kind: str,
    advance: Callable[[int], None],
) -> TensorDifference:
    differing = 0
    largest = 0.0
    squares = 0.0
    norm = 0.0
    for box in _blocks(name, shape):
        ours, theirs = a.read(box, kind), b.read(box, kind)
        unequal = (ours != theirs) & ~(ours.isnan() & theirs.isnan())
        differing += int(unequal.sum())
        # inf - inf is NaN although both are equal, so equal places count 0 first.
        gap = (ours.double() - theirs.double()).where(unequal, 0.0).abs().nan_to_num(nan=torch.inf)
        largest = max(largest, float(gap.max()))
        squares += float(gap.square().sum())
        # A NaN that both sides hold is equal and must not spoil the norm.
        norm += float(ours.double().nan_to_num().square().sum())
        advance(box.numel)
    relative = sqrt(squares / norm) if norm else (float("inf") if squares else 0.0)
    return TensorDifference(name, kind, None, differing, largest, relative)


def _blocks(name: str, shape: tuple[int, ...]) -> Iterator[Box]:
    width = prod(shape[1:])
    rows = max(1, _BLOCK // width)
    for low in range(0, shape[0], rows):
        yield Box(name, shape, (low,) + (0,) * (len(shape) - 1), (min(rows, shape[0] - low), *shape[1:]))
