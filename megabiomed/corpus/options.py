"""What a corpus is built from: the options of a build, their checks, and what makes two builds the same."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.decontaminate import read_items
from megabiomed.corpus.layouts import AUTO
from megabiomed.corpus.readers import check_layout, parse_files
from megabiomed.corpus.unigrams import need_unigrams
from megabiomed.corpus.unpack import refuse_archive
from megabiomed.ground.errors import DataError

REPORT = "report.json"
"""In every finished corpus; a folder without it is not one."""


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        inputs: .jsonl or .jsonl.gz files: shards of the Datasets API, or metadata shards of release 20200705v1.
        output: folder for train/, validation/, tokenizer/, report.json and rejects.jsonl.
        pdf_parses: for release 20200705v1, the folder (or shard) of pdf_parses to join.
        tokenizer: tokenizer.model or tokenizer.json, or a folder with one, to use; None trains one of `vocab_size` pieces
            on the training papers.
        validation_fraction: share of papers held out, chosen by a hash of their id.
        workers: processes that clean and tokenize; the result does not depend on their number. They import the main
            module, so a script that calls `build_corpus` with several needs the usual `if __name__ == "__main__"`.
        overwrite: replace an existing corpus at `output` (never another folder).
        exact_dedup: drop papers whose cleaned text differs from an earlier one in case and white space at most.
        near_dedup: drop papers that share 80 % of their five-word shingles with an earlier one, estimated by MinHash.
        evaluation: evaluation sets to look for in the papers; see corpus/decontaminate.py.
        remove_contaminated: drop the papers found; False keeps them, and decontamination.json names the items.
    """

    inputs: list[Path]
    output: Path
    layout: str = AUTO
    pdf_parses: Path | None = None
    tokenizer: Path | None = None
    vocab_size: int = 32000
    validation_fraction: float = 0.03
    workers: int = max(1, os.cpu_count() or 1)
    rules: CleanRules = field(default_factory=CleanRules)
    overwrite: bool = False
    exact_dedup: bool = True
    near_dedup: bool = False
    evaluation: list[Path] = field(default_factory=list)
    remove_contaminated: bool = True


def check(options: BuildOptions) -> None:
    """Refuse a build that cannot work, before anything is read or written.

    Raises:
        DataError: an input is missing or empty, the output exists, or an option is out of range.
        ConfigError: a rule needs a package that is not installed.
    """
    if not options.inputs:
        raise DataError("no input files were given", do="name S2ORC .jsonl.gz files")
    check_layout(options.layout, options.pdf_parses)
    for path in options.inputs:
        if not path.is_file():
            raise DataError(f"{path} does not exist", do="check the path; shell patterns must match at least one file")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", do="download it again, or leave it out")
        refuse_archive(path, tar=True)
    if options.rules.pes2o_quality:
        need_unigrams()
    for path in options.evaluation:
        read_items(path)  # raises now what would otherwise end the first worker
    # Sources are named by file name in every document and in the manifest; two of one name could not be told apart.
    namesakes = [name for name, count in Counter(path.name for path in options.inputs).items() if count > 1]
    if namesakes:
        raise DataError(
            "two inputs have the same file name, which names a document's source", got=namesakes[0], do="rename one"
        )
    if not 0 <= options.validation_fraction < 1:
        raise DataError("validation_fraction is out of range", got=options.validation_fraction, expected="0 to below 1")
    if options.output.exists() and not options.overwrite:
        raise DataError(f"{options.output} exists already", do="choose another --output, or pass --overwrite")
    # A typing error in --output must not delete somebody's home folder.
    if options.output.exists() and not (options.output / REPORT).is_file():
        raise DataError(
            f"{options.output} is not a corpus, and --overwrite only replaces a corpus",
            got=f"no {REPORT} in it",
            do="choose another --output, or remove it yourself",
        )


def identity(options: BuildOptions) -> str:
    """What decides the bytes of a corpus, as text: a build goes on only where an unfinished one had the same."""
    # Neither changes the result: the workers share the jobs, and --overwrite is about the output's place.
    named = {name: str(value) for name, value in asdict(options).items() if name not in ("workers", "overwrite")}
    given = [*source_files(options), *options.evaluation, *([options.tokenizer] if options.tokenizer else [])]
    # Size and time of change stand for the content: hashing every input would read the corpus once more.
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in given if path.is_file()]
    return json.dumps({"version": 4, "options": named, "files": files}, indent=1, default=str)


def source_files(options: BuildOptions) -> list[Path]:
    """All files that papers come from: the inputs, and the pdf_parses joined with them."""
    joined = (parse_files(options.pdf_parses, path) for path in options.inputs) if options.pdf_parses else ()
    # Several inputs may be joined with the same files.
    return list(dict.fromkeys([*options.inputs, *(file for files in joined for file in files)]))
