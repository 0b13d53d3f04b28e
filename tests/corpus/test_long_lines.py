"""Lines of 50 MB: read where they are papers, counted where they are not, with memory for a few times the line at most."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from megabiomed.corpus.readers_lines import MAX_LINE_BYTES, read_records
from megabiomed.corpus.records import Rejects

SIZE = 50_000_000
SENTENCE = "The heart pumps the blood through the body. "


@pytest.mark.parametrize(
    ("begin", "end", "limit", "reason", "times"),
    [
        (b'{"text": "', b'"', MAX_LINE_BYTES, "record: invalid JSON", 5),
        (b"\xff", b"", MAX_LINE_BYTES, "record: invalid UTF-8", 5),
        (b'{"text": "', b'"}', SIZE // 10, "record: line too long", 0.5),
        (b'{"text": "', b'"}', MAX_LINE_BYTES, "", 5),
    ],
)
def test_a_line_of_50_mb_is_read_or_counted_and_so_are_its_neighbours(
    tmp_path: Path, begin: bytes, end: bytes, limit: int, reason: str, times: float
) -> None:
    path, rejects = tmp_path / "a.jsonl", Rejects()
    with path.open("wb") as file:
        file.write(b'{"text": "before"}\n' + begin)
        for _ in range(SIZE // 1_000_000):
            file.write(b"x" * 1_000_000)
        file.write(end + b'\n{"text": "after"}\n')
    tracemalloc.start()
    try:
        found = [
            (record.line, record.offset, len(record.value["text"])) for record in read_records(path, rejects, limit)
        ]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    after = path.stat().st_size - len(b'{"text": "after"}\n')
    assert found == [(1, 0, 6), *([] if reason else [(2, 19, SIZE)]), (3, after, 5)]
    assert rejects.counts == ({reason: 1} if reason else {})
    assert peak < times * SIZE


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_paper_of_50_mb_is_built_with_bounded_memory(tmp_path: Path) -> None:
    rows = [{"id": "long", "text": SENTENCE * (SIZE // len(SENTENCE))}, {"id": "short", "text": SENTENCE * 20}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = [sys.executable, "-m", "megabiomed.cli", "corpus", "build", "a.jsonl", "--output", "c", "--all-papers",
            "--workers", "1", "--vocab-size", "280", "--validation-fraction", "0"]  # fmt: skip
    subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, timeout=480)
    report = json.loads((tmp_path / "c" / "report.json").read_text())
    assert report["train"]["documents"] == 2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2_000_000  # KiB
