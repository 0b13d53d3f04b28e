"""The plots of a report, each as an SVG element."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from megabiomed.ground.html import plot_axes, svg, wrapped
from megabiomed.runs.report.facts import Curve, RunFacts

# Tol's bright scheme, which colour-blind readers can tell apart.
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
_MARKED = {"resume": ("#777777", ":"), "failed": ("#cc3311", "-"), "warning": ("#ee7733", "--")}
_MARKED |= dict.fromkeys(("skip", "rewind", "spike", "non_finite"), ("#ee7733", "--"))


def lines(
    curves: Mapping[str, Curve], label: str, facts: Sequence[RunFacts] = (), height: float = 3.0, log: bool = False
) -> str:
    """Curves over steps with a legend; a curve of few points has marks.

    Args:
        label: of the vertical axis, with the unit.
        facts: runs whose restarts and events are marked.
    """
    names = {name: wrapped(name) for name in curves}
    beside = sum(1 + name.count("\n") for name in names.values()) + len(_MARKED)
    figure, axes = plot_axes(max(height, 0.5 + 0.17 * beside) if len(curves) > 1 else height)
    for (name, curve), colour in zip(curves.items(), COLOURS * (1 + len(curves) // len(COLOURS))):
        mark = "o" if len(curve.steps) < 40 else None
        axes.plot(curve.steps, curve.values, color=colour, label=names[name], marker=mark, markersize=3, linewidth=1.3)
    for run in facts:
        _mark(axes, run)
    if log and all(value > 0 for curve in curves.values() for value in curve.values if math.isfinite(value)):
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel=label)
    axes.grid(alpha=0.3)
    if len(curves) > 1 or facts:
        # Beside the curves: inside it would cover them.
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, frameon=False, fontsize=8)
    return svg(figure)


def _mark(axes: Any, run: RunFacts) -> None:
    """A vertical line at each event of a kind that explains a bump, one entry in the legend for each kind."""
    named = set()
    for event in run.events:
        kind, step = event["event"], event.get("step")
        if kind in _MARKED and isinstance(step, int):
            colour, style = _MARKED[kind]
            axes.axvline(step, color=colour, linestyle=style, linewidth=1, label=None if kind in named else kind)
            named.add(kind)


def shares(parts: Mapping[str, float]) -> str:
    """One bar of all parts, in seconds, with the share of each."""
    figure, axes = plot_axes(1.5)
    whole, left = sum(parts.values()) or 1.0, 0.0
    for (name, seconds), colour in zip(parts.items(), COLOURS):
        axes.barh(0, seconds, left=left, color=colour, label=f"{name} {seconds / whole:.1%}")
        left += seconds
    axes.set_yticks([])
    axes.set_xlim(0, whole)
    axes.set_xlabel("seconds of all starts")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.02), ncols=3, frameon=False, fontsize=8)
    return svg(figure)
