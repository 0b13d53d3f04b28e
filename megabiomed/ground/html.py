"""Parts of self-contained HTML pages: plots as inline SVG, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

STYLE = """body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
td+td{text-align:right}svg{max-width:100%;height:auto}
.wide{overflow-x:auto}.text td+td{text-align:left}
@media(prefers-color-scheme:dark){body{background:#16181d;color:#ddd}td,th{border-color:#444}a{color:#8bf}
svg{background:#fff;border-radius:6px}}
@media print{body{max-width:none;margin:0;background:#fff;color:#000}h2{break-after:avoid}svg,table{break-inside:avoid}}"""


def page(title: str, body: str) -> str:
    """A complete page; `body` is HTML, `title` is text."""
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A table of texts; `words` aligns all columns to the left."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = ' class="text"' if words else ""
    return f'<div class="wide"><table{kind}><tr>{top}</tr>{body}</table></div>'


def plot_axes(height: float) -> tuple[Any, Any]:
    """A figure of the page's width and its axes; `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, max(1.4, height)), layout="constrained")
    return figure, figure.add_subplot()


def label_bars(axes: Any, ends: Sequence[float], labels: Sequence[str]) -> None:
    """Write a label behind the end of each horizontal bar, from below, and make the frame wide enough for it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    texts = [
        axes.annotate(f" {label}", (end, row), va="center", fontsize=8)
        for row, (end, label) in enumerate(zip(ends, labels))
    ]
    canvas = FigureCanvasAgg(axes.figure)
    canvas.draw()  # the layout decides how wide the frame is
    frame = axes.get_window_extent().width
    free = [1 - min(0.8, text.get_window_extent(canvas.get_renderer()).width / frame + 0.02) for text in texts]
    least = max((end / share for end, share in zip(ends, free)), default=1.0)
    axes.set_xlim(0, least or 1.0)


def named_rows(axes: Any, names: Sequence[str]) -> None:
    """Write the names of the rows of a plot beside them, from below; long ones on several lines."""
    axes.set_yticks(range(len(names)), [wrapped(name) for name in names])


def wrapped(name: str, width: int = 48) -> str:
    """A name on lines that leave a plot its place."""
    return "\n".join(textwrap.wrap(name, width)) or name


def bars(values: Mapping[str, float], unit: str, form: str = ",") -> str:
    """Horizontal bars with their figures, the first on top, as an SVG element; "" without any."""
    if not values:
        return ""
    names = list(values)[::-1]  # bars are drawn from below
    figure, axes = plot_axes(0.8 + sum(0.12 + 0.16 * (1 + wrapped(name).count("\n")) for name in names))
    held = [values[name] for name in names]
    axes.barh(range(len(names)), held, color="#4477aa")
    named_rows(axes, names)
    axes.set_xlabel(unit)
    label_bars(axes, held, [format(value, form) for value in held])
    return svg(figure)


def svg(figure: Any) -> str:
    """A figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # the same page for the same figures
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which HTML does not allow inside
