"""Read the papers of a corpus file, whichever S2ORC release it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from megabiomed.corpus.readers_2020 import joined_papers, metadata_paper
from megabiomed.corpus.readers_api import api_paper
from megabiomed.corpus.readers_lines import Record, check_readable, read_records
from megabiomed.corpus.readers_nested import doc2json_paper, paper_2019, text_paper
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.ground.errors import DataError

Layout = Literal["auto", "s2orc", "s2orc_2020", "s2orc_2019", "doc2json", "text"]
_PARSE_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".jsonl.zst")


def read_papers(
    path: Path, layout: str = "auto", rejects: Rejects | None = None, pdf_parses: Path | None = None
) -> Iterator[Paper]:
    """Stream the papers of one file: .jsonl, plain or .gz or .zst, a doc2json .json, or .parquet; memory does not grow.

    Args:
        path: a shard of the Datasets API's `s2orc`, or a metadata shard of S2ORC 20200705v1.
        layout: "s2orc" (Datasets API), "s2orc_2020" (20200705v1), "s2orc_2019" (2019-09-28), "doc2json", "text" (objects
            with a `text`) or "auto", which looks at the keys of each record.
        rejects: collects what is damaged. Without it the first damage raises `DataError`.
        pdf_parses: for 20200705v1, the matching shard of pdf_parses, or a folder of them. Without it the papers are
            titles and abstracts.

    Raises:
        DataError: at once, when a file is missing or cannot be read, or `layout` is unknown.
    """
    if layout not in get_args(Layout):
        raise DataError("the layout is unknown", got=repr(layout), expected=" | ".join(get_args(Layout)))
    rejects = Rejects(strict=True) if rejects is None else rejects
    check_readable(path)
    if pdf_parses is None:
        return _single(path, layout, rejects)
    if layout == "s2orc":
        raise DataError("pdf_parses belong to s2orc_2020", got="layout 's2orc'", do="leave out one of the two")
    return joined_papers(path, parse_files(pdf_parses, path), rejects)


def _single(path: Path, layout: str, rejects: Rejects) -> Iterator[Paper]:
    fixed: dict[str, Callable[[Record, Rejects], Paper | None]] = {
        "s2orc": api_paper,
        "s2orc_2020": metadata_paper,
        "s2orc_2019": paper_2019,
        "doc2json": doc2json_paper,
        "text": text_paper,
    }
    for record in read_records(path, rejects):
        to_paper = fixed.get(layout) or _recognise(record)
        if to_paper is None:
            keys = ", ".join(list(record.value)[:8])
            rejects.add("record: unknown layout", record.where, f"keys {keys}")
            continue
        paper = to_paper(record, rejects)
        if paper is not None:
            yield paper


def _recognise(record: Record) -> Callable[[Record, Rejects], Paper | None] | None:
    if "corpusid" in record.value or "content" in record.value:
        return api_paper
    if "grobid_parse" in record.value:
        return paper_2019
    if "pdf_parse" in record.value or "latex_parse" in record.value:
        return doc2json_paper
    if "paper_id" in record.value:
        return metadata_paper
    return text_paper if "text" in record.value else None


def parse_files(path: Path, metadata: Path) -> list[Path]:
    """The pdf_parses that may hold papers of a metadata shard.

    The release numbers its shards alike, metadata_7.jsonl.gz beside pdf_parses_7.jsonl.gz: then it is that one. Of a
    folder named otherwise it is every file.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if not path.is_dir():
        check_readable(path)
        return [path]
    partner = path / metadata.name.replace("metadata", "pdf_parses", 1)
    if partner.name != metadata.name and partner.is_file():
        return [partner]
    found = sorted(file for file in path.iterdir() if file.name.endswith(_PARSE_SUFFIXES))
    if not found:
        raise DataError(f"{path} holds no parses", expected=" or ".join(_PARSE_SUFFIXES), do="check the folder")
    for file in found:
        check_readable(file)
    return found
