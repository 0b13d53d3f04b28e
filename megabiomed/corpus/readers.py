"""Read the papers of a corpus file, whichever S2ORC release it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from megabiomed.corpus.layouts import AUTO, LAYOUTS, Layout, elements, nearest, recognise
from megabiomed.corpus.readers_files import read_any
from megabiomed.corpus.readers_lines import check_readable
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.ground.errors import DataError

_PARSE_SUFFIXES = (
    ".json",
    ".jsonl",
    *(f".json{line}.{pack}" for line in ("", "l") for pack in ("gz", "bz2", "xz", "zst")),
)


def read_papers(
    path: Path, layout: str = AUTO, rejects: Rejects | None = None, pdf_parses: Path | None = None
) -> Iterator[Paper]:
    """Stream the papers of one file: JSON, XML, a tar archive of these, or a table; memory does not grow with it.

    Args:
        path: a file of papers in one of the layouts.
        layout: a name of `LAYOUTS`, a layout of your own as `package.module:attribute`, or "auto", which looks at the
            keys of each record.
        rejects: collects what is damaged. Without it the first damage raises `DataError`.
        pdf_parses: for a layout that keeps metadata and parses apart, the matching shard of parses, or a folder of
            them. Without it the papers are titles and abstracts.

    Raises:
        ConfigError: at once, when `layout` is unknown or cannot be imported.
        DataError: at once, when a file is missing or cannot be read, or `layout` has no parses to join.
    """
    rejects = Rejects(strict=True) if rejects is None else rejects
    # This function is no generator itself: what is wrong with its arguments is raised here, not at the first paper.
    if pdf_parses is not None:
        join = joining(layout)
        check_readable(path)
        return join(path, parse_files(pdf_parses, path), rejects)
    fixed = None if layout == AUTO else LAYOUTS.find(layout)
    check_readable(path)
    return _single(path, fixed, rejects)


def check_layout(layout: str, pdf_parses: Path | None) -> None:
    """Raise what `read_papers` would raise for this layout, before any file is read."""
    if pdf_parses is not None:
        joining(layout)
    elif layout != AUTO:
        LAYOUTS.find(layout)


def joining(layout: str) -> Callable[[Path, Iterable[Path], Rejects], Iterator[Paper]]:
    """How a layout joins metadata with parses; for "auto", how the first one that can does.

    Raises:
        ConfigError: the layout is unknown or cannot be imported.
        DataError: the layout has everything in one file.
    """
    for name in LAYOUTS.names() if layout == AUTO else [layout]:
        join = LAYOUTS.find(name).join
        if join is not None:
            return join
    raise DataError(
        "the layout keeps no parses apart", got=f"layout {layout!r} with pdf_parses", do="leave out one of the two"
    )


def _single(path: Path, fixed: Layout | None, rejects: Rejects) -> Iterator[Paper]:
    for record in read_any(path, rejects, elements(fixed)):
        layout = fixed or recognise(record)
        if layout is None:
            keys = ", ".join(list(record.value)[:8])
            rejects.add(
                "record: unknown layout", record.where, f"keys {keys[:80]}; nearest layout: {nearest(record.value)}"
            )
            continue
        for part in layout.parts(record) if layout.parts is not None else (record,):
            paper = layout.read(part, rejects)
            if paper is not None:
                yield paper


def parse_files(path: Path, metadata: Path) -> list[Path]:
    """The pdf_parses that may hold papers of a metadata shard.

    The release numbers its shards in pairs: metadata_7.jsonl.gz belongs to pdf_parses_7.jsonl.gz, and then it is that one
    file. In a folder with other names it is every file.

    Raises:
        DataError: there is none, or it cannot be read.
    """
    if not path.is_dir():
        check_readable(path)
        return [path]
    partner = path / metadata.name.replace("metadata", "pdf_parses", 1)
    if partner.name != metadata.name and partner.is_file():
        return [partner]
    files = sorted(file for file in path.iterdir() if file.name.endswith(_PARSE_SUFFIXES))
    if not files:
        raise DataError(f"{path} holds no parses", expected=" or ".join(_PARSE_SUFFIXES), do="check the folder")
    for file in files:
        check_readable(file)
    return files
