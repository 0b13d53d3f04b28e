"""One self-contained HTML page about a corpus: tables and plots as inline SVG, no script, nothing loaded from elsewhere."""

from __future__ import annotations

import html
from collections import Counter
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict

from megabiomed.data.store import DOCUMENTS, TokenStore, origin_of
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import read_json, write_atomic
from megabiomed.ground.html import bars, page, plot_axes, svg, table


class _Split(TypedDict):
    documents: int
    tokens: int
    tokens_per_s: float


class _Rejects(TypedDict):
    counts: dict[str, int]
    samples: dict[str, list[str]]


class _Found(TypedDict):
    items_found: int
    papers: int


class _Report(TypedDict):
    train: _Split
    validation: _Split
    counts: dict[str, int]
    rejects: _Rejects
    vocab_size: int
    seconds: float
    decontamination: NotRequired[_Found | None]


def read_report(file: Path) -> dict[str, Any]:
    """The report of a built corpus.

    Raises:
        DataError: it lacks something, or holds another type.
    """
    content = read_json(file, dict)
    try:
        TypeAdapter(_Report).validate_python(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{file} is damaged", got=got, do="build the corpus again") from None
    return content


def write_page(corpus: Path, report: dict[str, Any], output: Path) -> None:
    """Write the page of a built corpus.

    Args:
        report: the corpus's report.json.
    """
    lengths, years, fields, sources = _figures(corpus, report)
    counts = report["counts"]
    fates = {what.removeprefix("papers: "): n for what, n in counts.items() if what.startswith("papers: ")}
    removed = {
        what.removeprefix("characters: "): n
        for what, n in counts.items()
        if what.startswith("characters: ") and what.split(": ")[1] not in ("in", "out")
    }
    plots = (
        ("Papers kept and dropped", bars(fates, "papers")),
        ("Characters removed by rule", bars({what: n for what, n in removed.items() if n > 0}, "characters")),
        ("Tokens of a document", _histogram(lengths)),
        ("Papers by year", bars(dict(sorted(years.items())), "papers") if years else ""),
        ("Papers by field of study", bars(dict(fields.most_common(20)), "papers, in each of their fields")),
        ("Papers by licence", bars(_licences(report), "papers")),
        ("Duplicates", bars(_duplicates(counts), "papers dropped")),
        ("Tokens by source file", bars(dict(sources.most_common(30)), "tokens")),
        ("Damage by reason", bars(report["rejects"]["counts"], "records, fields or spans")),
    )
    figures = "".join(f"<h2>{title}</h2>{plot or '<p>none</p>'}" for title, plot in plots)
    write_atomic(output, page(f"Corpus {corpus.name}", f"{_table(report)}{figures}{_samples(report)}"))


def _licences(report: dict[str, Any]) -> dict[str, int]:
    """Of both splits; a corpus of an older release does not tell."""
    found = Counter[str]()
    for split in ("train", "validation"):
        found.update(report[split].get("licences", {}))
    return dict(found.most_common())


def _duplicates(counts: dict[str, int]) -> dict[str, int]:
    reasons = {what.removeprefix("papers: dropped, "): number for what, number in counts.items()}
    return {reason: n for reason, n in reasons.items() if reason.endswith("seen before") or reason == "near duplicate"}


def _figures(corpus: Path, report: dict[str, Any]) -> tuple[list[np.ndarray], Counter[str], Counter[str], Counter[str]]:
    lengths: list[np.ndarray] = []
    years = Counter[str]()
    fields = Counter[str]()
    sources = Counter[str]()
    for split in ("train", "validation"):
        # A store without documents does not open.
        if not report[split]["documents"]:
            continue
        store = TokenStore.open(corpus / split)
        lengths.append(np.diff(store.document_ends, prepend=0))
        with (store.path / DOCUMENTS).open("rb") as file:
            for number, (length, line) in enumerate(zip(lengths[-1].tolist(), file)):
                provenance = origin_of(line, store.path, number)
                sources[str(provenance.get("source"))] += length
                if provenance.get("year"):
                    years[str(provenance["year"])] += 1
                fields.update(map(str, provenance.get("fields") or ()))
    return lengths, years, fields, sources


def _table(report: dict[str, Any]) -> str:
    rows = [
        [split, f"{report[split]['documents']:,}", f"{report[split]['tokens']:,}"] for split in ("train", "validation")
    ]
    account = report.get("decontamination")
    text = (
        f"<p>Decontamination: {account['items_found']:,} items found in {account['papers']:,} papers.</p>"
        if account
        else "<p>Decontamination: no evaluation set was given.</p>"
    )
    return table(["", "documents", "tokens"], rows) + text


def _samples(report: dict[str, Any]) -> str:
    items = "".join(
        f"<li>{html.escape(reason)}<ul>{''.join(f'<li>{html.escape(sample)}</li>' for sample in samples)}</ul></li>"
        for reason, samples in report["rejects"]["samples"].items()
    )
    return f"<h2>Samples of damage</h2><ul>{items}</ul>" if items else ""


def _histogram(lengths: list[np.ndarray]) -> str:
    if not lengths:
        return ""
    every = np.concatenate(lengths)
    figure, axes = plot_axes(3.0)
    # Lengths spread over orders of magnitude.
    axes.hist(every, bins=np.geomspace(max(1, every.min()), every.max() + 1, 40).tolist(), color="#4477aa")
    axes.set_xscale("log")
    axes.set_xlabel(f"tokens; median {np.median(every):,.0f}")
    axes.set_ylabel("documents")
    return svg(figure)
