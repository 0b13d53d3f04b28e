"""One self-contained HTML page about an evaluation: tables and plots as inline SVG."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from megabiomed.align.text_scores import heading
from megabiomed.evaluate.metrics import Row
from megabiomed.evaluate.results import PAGE, ResultFolder
from megabiomed.evaluate.table import percent, remarks, warnings
from megabiomed.ground.figures import shown
from megabiomed.ground.files import write_atomic
from megabiomed.ground.html import label_bars, named_rows, page, plot_axes, svg, table, wrapped

_BLUE, _RED = "#4477aa", "#cc6677"
_SHOWN = 8


def write_results_page(folder: ResultFolder, results: dict[str, Any]) -> None:
    """Write results.html of a finished evaluation."""
    parts = [f"<p>{html.escape(results['model'])}, megabiomed {html.escape(results['version'])}</p>"]
    choice = {name: task for name, task in results["tasks"].items() if "accuracy" in task}
    if choice:
        bars = {name: task["accuracy"] for name, task in choice.items()}
        parts += ["<h2>Accuracy</h2>", _accuracies(bars, {name: task["majority"] for name, task in choice.items()})]
        parts.append("<p>95 % intervals (Wilson); red: always the most frequent answer.</p>")
    for name, task in results["tasks"].items():
        parts += [f"<h2>{html.escape(name)}</h2>", *_task(task, folder.read(name))]
    if results["perplexity"]:
        rows = [[name, shown(p["loss"], ".4f"), shown(p["perplexity"], ".3f"), f"{p['tokens']:,.0f}"]
                for name, p in results["perplexity"].items()]  # fmt: skip
        parts += ["<h2>Perplexity</h2>", table(["domain", "loss", "perplexity", "tokens"], rows)]
        parts += [f"<p><strong>{html.escape(line)}</strong></p>" for line in warnings(results)]
    write_atomic(folder.path / PAGE, page(f"Evaluation {folder.path.name}", "".join(parts)))


def _task(task: dict[str, Any], rows: Sequence[Row]) -> list[str]:
    facts = (
        f"{task['items']} items of {task['file']}, template {task['template']}, {task['mode']}, {task['shots']} shots"
    )
    parts = [f"<p>{html.escape(facts)}</p>"]
    notes = "".join(f"<li>{html.escape(line)}</li>" for line in remarks(task))
    parts.append(f"<ul>{notes}</ul>" if notes else "")
    if "text" in task:
        counted = task["counted"]
        rows_of_scores = [
            [heading(name, counted), f"{value:.3f}", counted[name]] for name, value in task["text"].items()
        ]
        parts.append(table(["score", "value", "counted"], rows_of_scores))
        return [*parts, _samples(rows)]
    keys = ("accuracy", "accuracy_normalised", "accuracy_clean", "accuracy_contaminated", "macro_f1")
    parts.append(table(["figure", "value [95 %]"], [[key, percent(task[key])] for key in keys if key in task]))
    if "by_subject" in task:
        parts += ["<h3>By subject</h3>", _accuracies(task["by_subject"], {})]
    if "confusion" in task:
        parts += ["<h3>Confusion</h3>", _confusion(task["confusion"]["options"], task["confusion"]["table"])]
    if task["mode"] == "choice":
        parts += ["<h3>How sure the model is</h3>", _margins(rows)]
    return [*parts, _samples(rows)]


def _accuracies(values: Mapping[str, Mapping[str, float]], baselines: Mapping[str, float]) -> str:
    names = list(values)[::-1]
    figure, axes = plot_axes(0.7 + sum(0.14 + 0.16 * (1 + wrapped(name).count("\n")) for name in names))
    for row, name in enumerate(names):
        found = values[name]
        errors = [[found["value"] - found["low"]], [found["high"] - found["value"]]]
        axes.barh(row, found["value"], xerr=errors, color=_BLUE, ecolor="#222222", capsize=3)
        if name in baselines:
            axes.plot([baselines[name]] * 2, [row - 0.4, row + 0.4], color=_RED)
    named_rows(axes, names)
    label_bars(
        axes,
        [values[name]["high"] for name in names],
        [f" {values[name]['value']:.1%} of {values[name]['items']}" for name in names],
    )
    return svg(figure)


def _confusion(options: list[str], counts: list[list[int]]) -> str:
    figure, axes = plot_axes(max(2.6, 0.7 + 0.3 * len(options)))
    columns = [*options, "(none)"]
    axes.imshow(np.array(counts), cmap="Blues", aspect="auto")
    for row, found in enumerate(counts):
        for column, count in enumerate(found):
            axes.annotate(str(count), (column, row), ha="center", va="center", color="#aa3311")
    axes.set_xticks(range(len(columns)), [wrapped(name, 100 // len(columns)) for name in columns])
    named_rows(axes, options)
    axes.set_xlabel("predicted")
    axes.set_ylabel("right")
    return svg(figure)


def _margins(rows: Sequence[Row]) -> str:
    """Log-likelihood of the chosen option above the next one, of right and wrong choices."""

    def margin(row: Row) -> float:
        first, second = sorted(row["logprobs"], reverse=True)[:2]
        return float(first - second)

    split = [[margin(row) for row in rows if row["correct"] == right] for right in (True, False)]
    figure, axes = plot_axes(2.6)
    edges = np.linspace(0, max([0.1, *split[0], *split[1]]), 31).tolist()
    axes.hist(split, bins=edges, color=[_BLUE, _RED], label=["right", "wrong"], stacked=True)
    axes.set_xlabel("log-likelihood of the chosen option above the next (nats)")
    axes.set_ylabel("items")
    axes.legend()
    return svg(figure)


def _samples(rows: Sequence[Row]) -> str:
    """The first wrong answers."""
    lines = []
    for row in [row for row in rows if not row["correct"]][:_SHOWN]:
        given = row.get("generated")
        if given is None:
            given = row["options"][row["prediction"]]
        lines.append([row["id"], str(row["answer"])[:200], str(given)[:200]])
    return f"<h3>Wrong answers, the first {len(lines)}</h3>{table(['id', 'right', 'given'], lines)}" if lines else ""
