"""The datasheet of a corpus tells where it is from and what was left out, in the same bytes each time."""

from __future__ import annotations

from pathlib import Path

from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.datasheet import HTML, MARKDOWN, write_datasheet
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.report import read_report


def test_a_build_writes_a_datasheet_and_the_command_writes_it_again(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl.gz", 40, 0)
    corpus = tmp_path / "corpus"
    options = BuildOptions([tmp_path / "a.jsonl.gz"], corpus, vocab_size=400, validation_fraction=0.2, workers=1)
    report = build_corpus(options)
    text, shown = (corpus / MARKDOWN).read_text(), (corpus / HTML).read_text()
    assert text.startswith("# Datasheet of corpus\n")
    assert f"| train | {report['train']['documents']} | {report['train']['tokens']:,} |" in text
    for part in (
        "Sources",
        "Licences",
        "Years",
        "Languages",
        "Papers dropped",
        "Duplicates dropped",
        "Hashes",
        "Rules",
    ):
        assert f"## {part}\n" in text
        assert f"<h2>{part}</h2>" in shown
    assert "| a.jsonl.gz | 40 |" in text
    assert f"| unmarked_citations | {CleanRules().unmarked_citations} |" in text
    write_datasheet(corpus, read_report(corpus / "report.json"), "corpus")
    assert ((corpus / MARKDOWN).read_text(), (corpus / HTML).read_text()) == (text, shown)
    # The report of an older corpus counts no years: the documents tell them.
    for split in ("train", "validation"):
        del report[split]["years"]
    write_datasheet(corpus, report, "corpus")
    assert ((corpus / MARKDOWN).read_text(), (corpus / HTML).read_text()) == (text, shown)
