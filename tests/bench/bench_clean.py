"""`make bench-clean DATA=FOLDER`: what cleaning costs on real papers: words lost that should stay, rests that should go.

Truth by hand: clean_truth.json has, for 24 papers chosen by the hash of their ids, the places (offsets into the text, checked
by its SHA-256) of every citation and every sentence of back matter that should go. The rules proposed places, which were then
judged; brackets of figures, tables, n, P and per cent were left out of that list.
Truth by markup: in papers with spans of citations, the rule for unmarked ones, run without the spans, is compared with them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.record import store, table
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects, Span

TRUTH = Path(__file__).with_name("clean_truth.json")
MEASURED = (
    "citations",
    "unmarked_citations",
    "back_matter_headers",
    "back_matter_phrases",
    "lone_headers",
    "placeholders",
)
OFF = replace(CleanRules(require_medical_id=False, min_words=0), **dict.fromkeys(MEASURED, False))
ALL = replace(OFF, **dict.fromkeys(MEASURED, True))
_WORD = re.compile(r"\w+")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("data", type=Path, help="folder with s2orc/, s2orc_2020/")
    options.add_argument("--dry", action="store_true", help="print only, leave docs/benchmarks alone")
    options.add_argument("--show", action="store_true", help="print the words of each paper that are lost or left")
    asked = options.parse_args()
    papers = list(papers_below(asked.data))
    rows = by_hand(papers, asked.show)
    if marked := [paper for paper in papers if paper.spans.get("bibref")]:
        rows.append(by_markup(marked))
    rows.append(speed(papers))
    print(table(rows))
    if not asked.dry:
        print(store("clean", rows, [" ".join(str(__doc__).split())]))


def papers_below(folder: Path) -> Iterator[Paper]:
    """Papers of the S2ORC releases in it: of files in folders s2orc, s2orc_2020 and so on."""
    for path in sorted(folder.glob("s2orc*/**/*.json*")):
        if path.suffix in (".json", ".jsonl", ".gz") and "metadata" not in path.parts:
            yield from read_papers(path, rejects=Rejects())


def words_of(paper: Paper, rules: CleanRules) -> Counter[str]:
    return Counter(_WORD.findall(clean(paper, rules, Counter()) or ""))


def by_hand(papers: list[Paper], show: bool) -> list[dict[str, Any]]:
    """All rules together, then each rule alone."""
    truth = json.loads(TRUTH.read_text())
    checked = {paper.paper_id: paper for paper in papers if paper.paper_id in truth}
    counts = {name: Counter[str]() for name in ("all", *MEASURED)}
    for name, paper in checked.items():
        if hashlib.sha256(paper.text.encode()).hexdigest() != truth[name]["sha256"]:
            raise SystemExit(f"paper {name} has another text than the one that was read")
        places = truth[name]["spans"]
        spans = [Span(start, end) for start, end in zip(places[::2], places[1::2])]
        # The rule for tables removes exactly what its spans cover.
        expected = words_of(replace(paper, spans={**paper.spans, "table": spans}), OFF)
        before = words_of(paper, OFF)
        gone = before - expected
        for rule in counts:
            got = words_of(paper, ALL if rule == "all" else replace(OFF, **{rule: True}))
            removed = before - got
            counts[rule].update(
                stay=expected.total(), go=gone.total(), removed=removed.total(), lost=(removed - gone).total(),
                left=(gone - removed).total(),
            )  # fmt: skip
            if show and rule == "all":
                print(name, "lost", dict(removed - gone), "left", dict(gone - removed))
    shared = {
        "truth": "by hand",
        "papers": len(checked),
        "spans": sum(len(truth[name]["spans"]) // 2 for name in checked),
    }
    return [{**shared, "rule": rule, **figures(found, rule == "all")} for rule, found in counts.items()]


def by_markup(papers: list[Paper]) -> dict[str, Any]:
    """The rule for unmarked citations without the spans against the rule for marked ones with them."""
    found = Counter[str]()
    for paper in papers:
        bare = replace(paper, spans={kind: spans for kind, spans in paper.spans.items() if kind != "bibref"})
        before, expected = words_of(paper, OFF), words_of(paper, replace(OFF, citations=True))
        removed, gone = before - words_of(bare, replace(OFF, unmarked_citations=True)), before - expected
        found.update(
            stay=expected.total(), go=gone.total(), removed=removed.total(), lost=(removed - gone).total(),
            left=(gone - removed).total(),
        )  # fmt: skip
    spans = sum(len(paper.spans["bibref"]) for paper in papers)
    shared = {"truth": "by markup", "papers": len(papers), "spans": spans, "rule": "unmarked_citations"}
    return {**shared, **figures(found, True)}


def figures(found: Counter[str], whole: bool) -> dict[str, Any]:
    """Words, and their shares in percent; `left` is told only of rules that are to remove everything."""
    row = {
        "words that stay": found["stay"], "words that go": found["go"], "removed": found["removed"], "lost": found["lost"],
        "lost %": round(100 * found["lost"] / max(found["stay"], 1), 4),
    }  # fmt: skip
    if whole:
        row |= {"left": found["left"], "left %": round(100 * found["left"] / max(found["go"], 1), 2)}
    return row


def speed(papers: list[Paper]) -> dict[str, Any]:
    """Characters a second of one core, with all rules and without the measured ones; the median of three rounds."""
    seconds: dict[str, list[float]] = {"all": [], "none of the measured": []}
    for _ in range(3):
        for name, rules in (("all", ALL), ("none of the measured", OFF)):
            started = time.process_time()
            for paper in papers:
                clean(paper, rules, Counter())
            seconds[name].append(time.process_time() - started)
    characters = sum(len(paper.text) for paper in papers)
    rates = {f"characters/s, {name}": round(characters / sorted(taken)[1]) for name, taken in seconds.items()}
    return {"truth": "speed", "papers": len(papers), **rates}


if __name__ == "__main__":
    main()
