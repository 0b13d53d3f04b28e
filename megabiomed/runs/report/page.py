"""The page about one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from megabiomed.checkpoint.catalog import list_checkpoints
from megabiomed.ground.figures import shown
from megabiomed.ground.files import read_json
from megabiomed.ground.html import page, table
from megabiomed.model.flops import parameter_count
from megabiomed.runs.environment import ENVIRONMENT
from megabiomed.runs.report.charts import lines, shares
from megabiomed.runs.report.facts import Curve, RunFacts
from megabiomed.runs.report.papers import papers_part
from megabiomed.runs.report.ranks import ranks_part
from megabiomed.runs.report.reading import reading_part

_QUIET = ("start", "resume", "first_step", "save")
"""Kinds of events that other parts of the page show."""
_APART = ("time", "event", "step", "claim", "papers", "windows")
_MOST = 200


def run_page(facts: RunFacts) -> str:
    """The complete page about one run."""
    return page(f"Run {facts.config.name}", "".join(_parts(facts)))


def _parts(facts: RunFacts) -> Iterator[str]:
    yield table(["", ""], _head(facts), words=True)
    for title, body in (
        ("Loss", _loss(facts)),
        ("Gradient norm and learning rate", _of_steps(facts)),
        ("Speed and memory", _speed(facts)),
        ("Where the time went", _time(facts)),
        ("Ranks", ranks_part(facts)),
        ("Balance of encoders", _encoders(facts)),
        ("What was read", reading_part(facts)),
        ("Starts", _starts(facts)),
        ("Questions and perplexities", _measured(facts)),
        ("Other figures", _others(facts)),
        ("Checkpoints", _checkpoints(facts)),
        ("Papers of events", papers_part(facts)),
        ("Events", _events(facts)),
        ("Machine", _machine(facts)),
    ):
        if body:
            yield f"<h2>{title}</h2>{body}"


def _head(facts: RunFacts) -> list[list[str]]:
    config, starts = facts.config, facts.starts
    ending, goodput = (starts[-1].ending if starts else "never started"), facts.goodput()
    tokens = facts.step * config.data.global_batch_size * config.data.seq_length
    hashes = [event["ids_hash"] for event in facts.events if "ids_hash" in event]
    rows = [
        ["state", f"{ending}, {facts.step:,} steps, {tokens:,} tokens"],
        ["model", f"{config.model.kind}, {parameter_count(config.model):,} parameters, {config.train.precision}"],
        ["topology", ", ".join(f"{key}: {value}" for key, value in _set(config.parallel).items()) or "one process"],
        ["starts", f"{len(starts)}, from {_day(starts[0].began)} to {_day(starts[-1].last)} (UTC)" if starts else "0"],
        ["goodput", "not known" if goodput is None else f"{goodput:.1%} of the time of all starts went into steps that count"],
    ]  # fmt: skip
    rows += [["ids of all samples", str(hashes[-1])]] if hashes else []
    for name, curve in facts.curves.items():
        if name in ("train/loss", "validation/loss"):
            rows.append([f"last {name}", f"{shown(curve.values[-1], '.4f')} at step {curve.steps[-1]:,}"])
    return rows


def _set(section: Any) -> dict[str, Any]:
    """The keys of a section that differ from their defaults."""
    found: dict[str, Any] = section.model_dump(mode="json", exclude_defaults=True)
    return found


def _loss(facts: RunFacts) -> str:
    names = {"train/loss": "training", "validation/loss": "validation"}
    curves = {text: facts.curves[name] for name, text in names.items() if name in facts.curves}
    return lines(curves, "loss per token (nats)", [facts], 3.4) if curves else ""


def _of_steps(facts: RunFacts) -> str:
    found = ""
    for name, label in (("train/grad_norm", "gradient norm"), ("train/lr", "learning rate")):
        if name in facts.curves:
            found += lines({name: facts.curves[name]}, label, [facts], 2.2, log=name == "train/grad_norm")
    return found


def _speed(facts: RunFacts) -> str:
    found = ""
    speeds = {name: facts.curves[f"train/{name}"] for name in ("tokens_per_s", "useful_tokens_per_s")
              if f"train/{name}" in facts.curves}  # fmt: skip
    if speeds:
        found += lines(speeds, "tokens per second", [facts], 2.4)
    used = {name: facts.curves[f"train/{name}"] for name in ("mfu", "hfu") if f"train/{name}" in facts.curves}
    if used:
        found += lines(used, "share of the devices' peak", [facts], 2.2)
    if "train/memory_bytes" in facts.curves:
        held = facts.curves["train/memory_bytes"]
        found += lines(
            {"memory": Curve(held.steps, [value / 2**30 for value in held.values])}, "GiB of rank 0", [], 1.8
        )
    return found


def _time(facts: RunFacts) -> str:
    parts = facts.time()
    if not sum(parts.values()):
        return ""
    rows = [[name, _span(seconds), f"{seconds / sum(parts.values()):.1%}"] for name, seconds in parts.items()]
    note = "<p>Steps by the speed of the step lines; time between starts, in a queue for example, is not in it.</p>"
    return shares(parts) + table(["", "time", "share"], rows) + note


def _starts(facts: RunFacts) -> str:
    rows = [
        [str(number), _day(start.began), f"{start.first_step:,} to {start.last_step:,}", _span(start.wall_s),
         _span(start.startup_s), _span(start.lost_s), start.ending]
        for number, start in enumerate(facts.starts, 1)
    ]  # fmt: skip
    found = table(["start", "began (UTC)", "steps", "took", "start-up", "done again", "ended"], rows) if rows else ""
    changes = [[str(number), line] for number, start in enumerate(facts.starts, 1) for line in start.changed]
    return found + ("<h3>Changed settings</h3>" + table(["start", "what"], changes, words=True) if changes else "")


def _measured(facts: RunFacts) -> str:
    held = {name.partition("/")[2]: curve for name, curve in facts.curves.items() if name.startswith("evaluation/")}
    if not held:
        return ""
    rows = [
        [name, shown(curve.values[0], ".4f"), shown(curve.values[-1], ".4f"), _change(curve)]
        for name, curve in held.items()
    ]
    groups = {"perplexity": "perplexity", "accuracy": "accuracy"}
    plots = ""
    for ending, label in groups.items():
        chosen = {name: curve for name, curve in held.items() if name.endswith(ending)}
        plots += lines(chosen, label, [facts], 2.6) if chosen else ""
    return plots + table(["figure", "first", "last", "change"], rows)


def _change(curve: Curve) -> str:
    first, last = curve.values[0], curve.values[-1]
    return f"{last / first - 1:+.1%}" if first and math.isfinite(first) and math.isfinite(last) else ""


def _encoders(facts: RunFacts) -> str:
    names = {"busiest_mean": "mean of the steps", "busiest_worst": "worst step"}
    curves = {
        text: facts.curves[f"encoders/{name}"] for name, text in names.items() if f"encoders/{name}" in facts.curves
    }
    if not curves:
        return ""
    note = "<p>Encoding work that is dealt to the busiest rank over the mean of the encoding ranks; 1 is ideal.</p>"
    return lines(curves, "busiest rank / mean", [], 2.2) + note


def _others(facts: RunFacts) -> str:
    """Figures that no other part shows: of encoders, adaptors, or a user's own."""
    known = ("loss", "grad_norm", "lr", "mfu", "hfu", "memory_bytes", "eta_s", "model_flops_per_s")
    found = ""
    for name, curve in facts.curves.items():
        group, _, what = name.partition("/")
        if group in ("evaluation", "ranks", "encoders") or what in known or "tokens_per_s" in what:
            continue
        found += lines({name: curve}, name, [], 1.8)
    return found


def _checkpoints(facts: RunFacts) -> str:
    rows = []
    for listed in list_checkpoints(facts.folder / "checkpoints"):
        size = sum(file.stat().st_size for file in listed.path.rglob("*") if file.is_file())
        rows.append([listed.path.name, f"{size / 2**20:,.1f} MiB", _day(listed.path.stat().st_mtime)])
    return table(["checkpoint", "size", "written (UTC)"], rows) if rows else ""


def _events(facts: RunFacts) -> str:
    told = [event for event in facts.events if event["event"] not in _QUIET]
    rows = []
    for event in told[-_MOST:]:
        rest = ", ".join(f"{k}: {v}" for k, v in event.items() if k not in _APART)
        rows.append([str(event.get("time", ""))[:19], str(event.get("step", "")), event["event"], rest[:300]])
    note = f"<p>The last {_MOST} of {len(told):,}.</p>" if len(told) > _MOST else ""
    return note + table(["time (UTC)", "step", "event", "what"], rows, words=True) if rows else ""


def _machine(facts: RunFacts) -> str:
    file = facts.folder / ENVIRONMENT
    held = read_json(file, list)[-1:] if file.is_file() else []
    if not held or not isinstance(held[0], dict):
        return ""
    rows = [[name, str(value)] for name, value in held[0].items() if name != "packages"]
    packages = held[0].get("packages")
    rows += [[name, str(found)] for name, found in packages.items()] if isinstance(packages, dict) else []
    return table(["", ""], rows, words=True)


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
