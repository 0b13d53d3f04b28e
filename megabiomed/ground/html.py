"""Parts of self-contained HTML pages: plots as inline SVG, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
import io
from typing import Any

STYLE = """body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse}td,th{padding:.2em .8em;border-bottom:1px solid #ddd;text-align:left}
td+td{text-align:right}svg{max-width:100%;height:auto}"""


def page(title: str, body: str) -> str:
    """A complete page; `body` is HTML, `title` is text."""
    title = html.escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head>'
        f"<body><h1>{title}</h1>{body}</body></html>\n"
    )


def plot_axes(height: float) -> tuple[Any, Any]:
    """A figure of the page's width and its axes; `height` in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, max(1.4, height)), layout="constrained")
    return figure, figure.add_subplot()


def svg(figure: Any) -> str:
    """A figure as an SVG element."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})  # the same page for the same figures
    text = buffer.getvalue()
    return text[text.index("<svg") :]  # without the XML prologue, which HTML does not allow inside
