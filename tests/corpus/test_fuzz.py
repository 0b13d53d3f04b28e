"""10,000 mutated records: each is kept or counted by reason, none crashes the reader or the cleaning."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from support.mutate import mutate

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.generate import write_records
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Rejects


def spoil(line: bytes, rng: random.Random) -> bytes:
    """Cut a line, or overwrite bytes of it."""
    if rng.random() < 0.5:
        return line[: rng.randrange(len(line))]
    data = bytearray(line)
    for _ in range(rng.randrange(1, 8)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data).replace(b"\n", b" ")


@pytest.mark.timeout(200)
def test_ten_thousand_mutated_records_are_kept_or_counted(tmp_path: Path) -> None:
    write_records(tmp_path / "r.jsonl.gz", 12, 0)
    rows = gzip.decompress((tmp_path / "r.jsonl.gz").read_bytes()).splitlines()
    nested = {
        "paper_id": "7",
        "metadata": {"title": "T", "pmc_id": "PMC1", "abstract": "A."},
        "grobid_parse": {"body_text": [{"section": "S", "text": "Some text [1].", "cite_spans": [], "ref_spans": []}]},
    }
    rows += [json.dumps(nested).encode(), json.dumps({"text": "Plain words.", "id": "a"}).encode()]
    rng = random.Random(0)
    lines = []
    for number in range(10_000):
        line = rows[number % len(rows)]
        mutated = json.dumps(mutate(json.loads(line), rng)).encode() if number % 4 else spoil(line, rng)
        lines.append(mutated)
    (tmp_path / "fuzzed.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    rejects, counts = Rejects(), Counter[str]()
    read = 0
    for paper in read_papers(tmp_path / "fuzzed.jsonl", "auto", rejects):
        read += 1
        text = clean(paper, CleanRules(), counts)
        assert text is None or text.encode()
        json.dumps([paper.paper_id, paper.title, paper.ids, paper.fields], ensure_ascii=False).encode()
        assert all(0 <= span.start < span.end <= len(paper.text) for spans in paper.spans.values() for span in spans)
    "".join(rejects.lines()).encode()
    assert rejects.counts["field: lone surrogates replaced"] > 100
    assert read + rejects.records + rejects.counts["input: blank line"] == 10_000
    assert sum(count for what, count in counts.items() if what.startswith("papers:")) == read
    assert read > 1000
    assert rejects.records > 1000
