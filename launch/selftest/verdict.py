"""The end of a self-test: verdict.json for programs, a page for people, one line for the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.ground.files import write_atomic, write_json
from megabiomed.ground.html import page, table
from megabiomed.launch.selftest.plan import BOUND, NORM_BOUND, Check
from megabiomed.launch.selftest.results import FAILED, PASSED, SKIPPED, Result

JSON = "verdict.json"
PAGE = "verdict.html"


@dataclass(frozen=True)
class Verdict:
    """All results of a self-test.

    Attributes:
        plan: the checks of all nodes; one without a result was not done.
        seconds: how long all of it took.
        code: version of the package that was tested.
    """

    cluster: str
    nodes: tuple[str, ...]
    plan: Sequence[Check]
    results: Sequence[Result]
    seconds: float
    code: Any

    @property
    def complete(self) -> list[Result]:
        """A result for each check, in the order of the plan."""
        held = {result.name: result for result in self.results}
        return [held.get(check.name) or Result(check.name, FAILED, "not done") for check in self.plan]

    @property
    def status(self) -> str:
        """Failed as soon as one check is."""
        return FAILED if any(result.status == FAILED for result in self.complete) else PASSED

    def line(self, page: Path) -> str:
        """For the log and the terminal."""
        counts = Counter(result.status for result in self.complete)
        failed = [result.name for result in self.complete if result.status == FAILED]
        words = ", ".join(f"{counts[status]} {status}" for status in (PASSED, FAILED, SKIPPED))
        names = f" ({', '.join(failed)})" if failed else ""
        return f"selftest {self.status}: {words}{names} in {self.seconds:.0f} s: {page}"


def write(run: Path, verdict: Verdict) -> str:
    """Write both files into the run folder; returns the line."""
    line = verdict.line(run / PAGE)
    write_atomic(run / PAGE, html_of(verdict))
    # Last: who waits for it finds the page complete.
    write_json(run / JSON, _values(verdict, line))
    return line


def _values(verdict: Verdict, line: str) -> dict[str, Any]:
    checks = {check.name: check for check in verdict.plan}
    return {
        "verdict": verdict.status,
        "line": line,
        "cluster": verdict.cluster,
        "nodes": list(verdict.nodes),
        "version": __version__,
        "code": verdict.code,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(verdict.seconds, 1),
        "bounds": {"loss": BOUND, "gradient norm": NORM_BOUND},
        "checks": [
            {"phase": checks[result.name].phase, **result.values()}
            | ({"do": checks[result.name].do} if result.status == FAILED else {})
            for result in verdict.complete
        ],
    }


def html_of(verdict: Verdict) -> str:
    """The page: what failed and what to do, then every check, then every figure."""
    checks = {check.name: check for check in verdict.plan}
    failed = [result for result in verdict.complete if result.status == FAILED]
    body = [f"<p><strong>{verdict.status}</strong>: {escape(_summary(verdict))}</p>"]
    if failed:
        rows = [(result.name, result.reason, checks[result.name].do) for result in failed]
        body += ["<h2>What to do</h2>", table(("check", "what happened", "next"), rows, words=True)]
    body += ["<h2>Checks</h2>", table(("check", "outcome", "what is checked", "reason"), _rows(verdict), words=True)]
    figures = [
        (result.name, each.name, f"{each.value:.5g}", each.unit)
        for result in verdict.complete
        for each in result.figures
    ]
    body += ["<h2>Figures</h2>", table(("check", "figure", "value", "unit"), figures)]
    body += [f"<p>Bounds of the comparison with one process (fp32): {escape(_bounds())}</p>"]
    return page(f"Self-test of {verdict.cluster}", "".join(body))


def _rows(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    about = {check.name: f"{check.phase}: {check.about}" for check in verdict.plan}
    # In the table above is the reason of what failed.
    return [
        (each.name, each.status, about[each.name], each.reason if each.status == SKIPPED else "")
        for each in verdict.complete
    ]


def _summary(verdict: Verdict) -> str:
    counts = Counter(result.status for result in verdict.complete)
    words = ", ".join(f"{counts[status]} {status}" for status in (PASSED, FAILED, SKIPPED))
    return f"{words}; nodes {', '.join(verdict.nodes)}; {verdict.seconds:.0f} s; megabiomed {__version__}"


def _bounds() -> str:
    losses = ", ".join(f"{name} {bound:g} for losses" for name, bound in BOUND.items())
    norms = ", ".join(f"{name} {bound:g} for gradient norms" for name, bound in NORM_BOUND.items())
    return f"{losses}; {norms} (in bf16 of the first step alone)."
