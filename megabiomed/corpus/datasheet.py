"""The datasheet of a corpus (Gebru et al. 2021, arXiv 1803.09010): what is in it, where it is from, and what was left out.

It is made from report.json, the manifests and the documents' provenance, and holds neither times nor machines: the same
corpus has the same datasheet, byte for byte.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.corpus.select import language_of
from megabiomed.corpus.shards import COUNTED, counted
from megabiomed.data.store import DOCUMENTS, TokenStore, origin_of
from megabiomed.ground.files import write_atomic
from megabiomed.ground.html import page, table
from megabiomed.tokenizer.files import find_in, open_tokenizer

MARKDOWN, HTML = "datasheet.md", "datasheet.html"
SAMPLE = 200
"""Documents of each split, evenly spread, whose language is recognised."""
_SPLITS = ("train", "validation")
_TOKENS_OF_SAMPLE = 700


@dataclass(frozen=True)
class Section:
    """A heading and its table; `rows` may be empty."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def write_datasheet(corpus: Path, report: dict[str, Any], name: str) -> tuple[Path, Path]:
    """Write datasheet.md and datasheet.html into a corpus and return their paths.

    Args:
        report: the corpus's report.json.
        name: of the corpus, for the title; the folder may still have another one.
    """
    sections = list(_sections(corpus, report))
    title = f"Datasheet of {name}"
    write_atomic(corpus / MARKDOWN, f"# {title}\n\n" + "\n".join(_markdown(section) for section in sections))
    body = "".join(
        f"<h2>{html.escape(section.title)}</h2>{table(section.head, section.rows) if section.rows else '<p>none</p>'}"
        for section in sections
    )
    write_atomic(corpus / HTML, page(title, body))
    return corpus / MARKDOWN, corpus / HTML


def _sections(corpus: Path, report: dict[str, Any]) -> Iterator[Section]:
    stores = {split: TokenStore.open(corpus / split) for split in _SPLITS if report[split]["documents"]}
    rows = [(name, f"{report[name]['documents']:,}", f"{report[name]['tokens']:,}") for name in _SPLITS]
    yield Section("Size", ("split", "documents", "tokens"), rows)
    totals = _counted(stores, report)
    sources = [
        (source["file"], f"{sum(_documents(store, source['file']) for store in stores.values()):,}", source["sha256"])
        for source in next(iter(stores.values())).manifest["sources"]
    ]
    yield Section("Sources", ("file", "documents", "sha256"), sources)
    for kind in ("licences", "fields of study", "years"):
        found = totals[kind]
        order = (
            sorted(found.items()) if kind == "years" else sorted(found.items(), key=lambda item: (-item[1], item[0]))
        )
        yield Section(kind.capitalize(), (kind, "documents"), [(key, f"{number:,}") for key, number in order])
    languages = Counter[str]()
    for store in stores.values():
        languages.update(_languages(store, corpus))
    head = ("language", f"documents of {languages.total():,} looked at")
    yield Section("Languages", head, [(key, f"{number:,}") for key, number in sorted(languages.items())])
    yield from _losses(report)
    yield Section("Hashes", ("file", "sha256"), _hashes(stores, report))
    yield Section("Rules", ("rule", "value"), [(name, str(value)) for name, value in report.get("rules", {}).items()])


def _losses(report: dict[str, Any]) -> Iterator[Section]:
    """What was dropped, removed and found: papers, duplicates, characters, damage, contamination."""
    dropped = {what[17:]: n for what, n in report["counts"].items() if what.startswith("papers: dropped, ")}
    twice = {what for what in dropped if what.endswith("seen before") or what == "near duplicate"}
    yield _counts("Papers dropped", "rule", {what: n for what, n in dropped.items() if what not in twice})
    yield _counts("Duplicates dropped", "kind", {what: n for what, n in dropped.items() if what in twice})
    removed = {what[12:]: n for what, n in report["counts"].items() if what.startswith("characters: ") and n > 0}
    yield _counts("Characters removed", "rule", {what: n for what, n in removed.items() if what not in ("in", "out")})
    yield _counts("Damage in the sources", "kind", report["rejects"]["counts"])
    found = report.get("decontamination")
    rows = [("items found", f"{found['items_found']:,}"), ("papers", f"{found['papers']:,}")] if found else []
    yield Section("Contamination by evaluation sets", ("what", "number"), rows)


def _counts(title: str, name: str, values: dict[str, int]) -> Section:
    return Section(title, (name, "number"), [(what, f"{number:,}") for what, number in sorted(values.items())])


def _counted(stores: dict[str, TokenStore], report: dict[str, Any]) -> dict[str, Counter[str]]:
    found = {kind: Counter[str]() for kind in ("licences", "fields of study", "years")}
    for split, store in stores.items():
        # A build counts while it tokenizes; of older corpora the provenance of every document is read.
        held = report[split] if all(kind in report[split] for kind in found) else _counted_in(store)
        for kind, total in found.items():
            total.update(held[kind])
    return found


def _counted_in(store: TokenStore) -> dict[str, Counter[str]]:
    found = {kind: Counter[str]() for kind in COUNTED}
    with (store.path / DOCUMENTS).open("rb") as file:
        for number, line in enumerate(file):
            for kind, values in counted(origin_of(line, store.path, number)).items():
                found[kind].update(values)
    return found


def _documents(store: TokenStore, file: str) -> int:
    return sum(int(source["documents"]) for source in store.manifest["sources"] if source["file"] == file)


def _languages(store: TokenStore, corpus: Path) -> Counter[str]:
    """Languages of documents evenly spread over a store, from their first tokens."""
    held = find_in(corpus / "tokenizer")
    if held is None:
        return Counter()
    tokenizer = open_tokenizer(held)
    step = math.ceil(store.num_documents / SAMPLE)
    found = Counter[str]()
    for number in range(0, store.num_documents, step):
        start, end = store.indexed_bounds(number)
        ids = store.tokens(start, min(end, start + _TOKENS_OF_SAMPLE)).tolist()
        found[language_of(tokenizer.decode(ids)) or "unknown"] += 1
    return found


def _hashes(stores: dict[str, TokenStore], report: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (f"{split}/{name}", str(entry["sha256"]))
        for split, store in stores.items()
        for name, entry in sorted(store.manifest["files"].items())
    ]
    return [*rows, ("tokenizer", str(report.get("tokenizer_sha256", "")))]


def _markdown(section: Section) -> str:
    if not section.rows:
        return f"## {section.title}\n\nnone\n"
    lines = [
        " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in (section.head, *section.rows)
    ]
    lines.insert(1, " | ".join("---" for _ in section.head))
    return f"## {section.title}\n\n" + "\n".join(f"| {line} |" for line in lines) + "\n"
