"""Plots of all pages: labels stay inside their frames, whatever the names and figures are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from megabiomed.corpus import report as corpus
from megabiomed.evaluate import page as evaluation
from megabiomed.ground.html import bars
from megabiomed.runs.report import charts
from megabiomed.runs.report.facts import Curve

LONG = "a name of a set of questions that is much longer than a plot has room for, s2orc/part-000123-of-000999.jsonl.gz"
NAMES = ["a", "molecules", LONG, LONG.replace(" ", "_")]
STEPS = Curve(list(range(100)), [float(n) for n in range(100)])
SCORES = {"value": 0.97, "low": 0.9, "high": 1.0, "items": 123_456}


def plots() -> Iterator[tuple[str, Any]]:
    yield "bars", lambda: bars({name: 10**number for number, name in enumerate(NAMES, 5)}, "tokens")
    yield "bars without length", lambda: bars(dict.fromkeys(NAMES, 0), "papers")
    yield "many bars", lambda: bars({f"{name} {n}": n for name in NAMES for n in range(8)}, "papers")
    yield "lengths", lambda: corpus._histogram([np.arange(1, 100_000)])
    yield "accuracies", lambda: evaluation._accuracies(dict.fromkeys(NAMES, SCORES), dict.fromkeys(NAMES, 0.3))
    yield "confusion", lambda: evaluation._confusion(["yes", "no", LONG], [[12345] * 4] * 3)
    yield "margins", lambda: evaluation._margins([{"logprobs": [-1.0, -2.0], "correct": True}] * 3)  # type: ignore[list-item]
    yield "curves", lambda: charts.lines({f"{name} {n}": STEPS for name in NAMES for n in range(5)}, "perplexity", [])
    yield (
        "time",
        lambda: charts.shares({"steps": 1e6, "steps done again": 1.0, "start-up": 2.0, "validation and other": 3.0}),
    )


def outside(figure: Figure) -> list[str]:
    """What reaches out of a figure; of bars, labels that reach out of their axes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    box, (width, height) = figure.get_tightbbox(renderer), figure.get_size_inches()
    beyond = max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)  # inches
    found = [f"{beyond:.3f} inches"] if beyond > 0.02 else []
    for text in figure.findobj(Annotation):
        assert isinstance(text, Annotation)
        assert text.axes is not None
        extent, frame = text.get_window_extent(renderer), text.axes.bbox
        if min(extent.x0 - frame.x0, extent.y0 - frame.y0, frame.x1 - extent.x1, frame.y1 - extent.y1) < -1:
            found.append(text.get_text())
    return found


@pytest.mark.parametrize(("name", "plot"), [pytest.param(name, plot, id=name) for name, plot in plots()])
@pytest.mark.filterwarnings("error:constrained_layout")
def test_labels_stay_inside_their_frames(name: str, plot: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    save = Figure.savefig

    def looked_at(figure: Figure, *args: Any, **named: Any) -> None:
        seen.append(outside(figure))
        save(figure, *args, **named)

    monkeypatch.setattr(Figure, "savefig", looked_at)
    assert plot()
    assert seen == [[]]
