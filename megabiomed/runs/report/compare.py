"""The page that compares runs, and the figures of runs as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from megabiomed.config import to_yaml
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.figures import shown
from megabiomed.ground.html import page, table
from megabiomed.ground.mappings import leaves
from megabiomed.runs.report.charts import lines
from megabiomed.runs.report.facts import Curve, RunFacts

_PLOTS = {
    "train/loss": "training loss per token (nats)",
    "validation/loss": "validation loss per token (nats)",
    "train/grad_norm": "gradient norm",
    "train/lr": "learning rate",
    "train/tokens_per_s": "tokens per second",
}
_PLACES = ("name", "run_dir")


def compare_page(runs: Sequence[RunFacts]) -> str:
    """Curves of all runs in the same plots, their last figures, and the settings in which they differ."""
    names = run_names(runs)
    parts = []
    for key, label in _PLOTS.items():
        if curves := _curves(runs, key):
            parts.append(f"<h2>{label}</h2>{lines(curves, label, log=key == 'train/grad_norm')}")
    evaluated = dict.fromkeys(key for run in runs for key in run.curves if key.startswith("evaluation/"))
    for key in evaluated:
        parts.append(f"<h2>{key.partition('/')[2]}</h2>{lines(_curves(runs, key), key)}")
    parts.append(f"<h2>Last figures</h2>{table(['', *names], _last(runs, [*_PLOTS, *evaluated]))}")
    if differences := _differences(runs):
        parts.append(f"<h2>Settings that differ</h2>{table(['key', *names], differences, words=True)}")
    return page(f"Runs {', '.join(names)}", "".join(parts))


def run_names(runs: Sequence[RunFacts]) -> list[str]:
    """A name for each run, with its folder where two have the same."""
    names = [run.config.name for run in runs]
    return [f"{name} ({run.folder})" if names.count(name) > 1 else name for name, run in zip(names, runs)]


def _curves(runs: Sequence[RunFacts], key: str) -> dict[str, Curve]:
    return {name: run.curves[key] for name, run in zip(run_names(runs), runs) if key in run.curves}


def _last(runs: Sequence[RunFacts], keys: Sequence[str]) -> list[list[str]]:
    rows = [["steps", *(f"{run.step:,}" for run in runs)]]
    goodputs = [run.goodput() for run in runs]
    rows.append(["goodput", *("" if share is None else f"{share:.1%}" for share in goodputs)])
    for key in keys:
        cells = [shown(run.curves[key].values[-1], ".6g") if key in run.curves else "" for run in runs]
        rows += [[key, *cells]] if any(cells) else []
    return rows


def _differences(runs: Sequence[RunFacts]) -> list[list[str]]:
    """A row for each key of the configurations with more than one value."""
    held = [dict(leaves(read_yaml(to_yaml(run.config), run.config.name))) for run in runs]
    rows = []
    for key in dict.fromkeys(key for each in held for key in each):
        values = [str(each.get(key, "")) for each in held]
        if key not in _PLACES and len(set(values)) > 1:
            rows.append([key, *values])
    return rows


def figures_csv(runs: Sequence[RunFacts]) -> str:
    """A line for each run and step, a column for each figure; what was not measured at a step is empty."""
    columns = list(dict.fromkeys(key for run in runs for key in run.curves))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "step", *columns])
    for name, run in zip(run_names(runs), runs):
        values = {key: dict(zip(curve.steps, curve.values)) for key, curve in run.curves.items()}
        for step in sorted({step for curve in run.curves.values() for step in curve.steps}):
            writer.writerow([name, step, *(values[key].get(step, "") if key in values else "" for key in columns)])
    return text.getvalue()
