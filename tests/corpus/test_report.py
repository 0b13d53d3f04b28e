"""The page of a corpus holds its figures, loads nothing from elsewhere, and opens in a real browser where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.report import write_page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def page(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    shown = CliRunner().invoke(corpus_app, ["inspect", str(corpus), "--html", str(path)], catch_exceptions=False)
    assert shown.exit_code == 0
    assert "page:" in shown.output
    return path


def test_the_page_is_whole_and_self_contained(page: Path) -> None:
    text = page.read_text()
    for title in ("Papers kept and dropped", "Tokens of a document", "Tokens by source file", "Characters removed"):
        assert title in text
    assert text.count("<svg") >= 4
    assert "<script" not in text
    assert not re.search(r'(?:src|href)="(?!#)', text.replace('xlink:href="#', ""))


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a corpus with years, fields, duplicates and damage."""
    folder = tmp_path_factory.mktemp("varied")
    text = "The heart pumps the blood through the body and the kidney filters it every day of the year. " * 5
    fields = [["Medicine", "Biology"], ["Medicine"], ["Chemistry"]]
    rows = [
        {"paper_id": str(n), "title": f"Title {n}", "abstract": f"{text} Number {n}.", "year": 2000 + n % 3,
         "pmc_id": f"PMC{n}", "mag_field_of_study": fields[n % 3]} for n in range(30)
    ]  # fmt: skip
    rows += [rows[0], {**rows[1], "paper_id": "99", "pmc_id": "PMC99"}]
    lines = [json.dumps(row) for row in rows]
    (folder / "metadata.jsonl").write_text("\n".join([*lines, "{damaged"]) + "\n")
    report = build_corpus(BuildOptions([folder / "metadata.jsonl"], folder / "c", vocab_size=300, workers=1))
    write_page(folder / "c", report, folder / "page.html")
    return (folder / "page.html").read_text()


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Papers kept and dropped", ["kept", "dropped, an abstract whose id was seen before"]),
        ("Papers by year", ["2000", "2001", "2002"]),
        ("Papers by field of study", ["Medicine", "Biology", "Chemistry"]),
        ("Duplicates", ["an abstract whose id was seen before", "text seen before"]),
        ("Tokens by source file", ["metadata.jsonl"]),
        ("Damage by reason", ["record: invalid JSON"]),
    ],
)
def test_each_plot_shows_its_figures(varied: str, title: str, shown: list[str]) -> None:
    plot = varied[varied.index(f"<h2>{title}") :].partition("</svg>")[0]
    for label in shown:
        assert f"<!-- {label} -->" in plot  # matplotlib draws text as paths and names each in a comment


@pytest.mark.skipif(
    BROWSER is None, reason="no headless browser here: apt-get install --no-install-recommends chromium"
)
def test_a_headless_browser_shows_the_page(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    assert "<h1>Corpus" in done.stdout
    assert done.stdout.count("<svg") >= 4
