"""docs/configuration.md is what the types say."""

from __future__ import annotations

from pathlib import Path

from megabiomed.config.reference import reference


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run `make docs`"


def test_every_key_is_explained() -> None:
    rows = [line for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 50
    assert all(row.split("|")[-2].strip() for row in rows)
