"""The page of a corpus holds its figures, loads nothing from elsewhere, and opens in a real browser where there is one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabiomed.corpus.cli import corpus_app

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


@pytest.mark.skipif(BROWSER is None, reason="no headless browser here")
def test_a_headless_browser_shows_the_page(page: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    assert "<h1>Corpus" in done.stdout
    assert done.stdout.count("<svg") >= 4
