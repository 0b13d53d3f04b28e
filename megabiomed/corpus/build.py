"""The corpus build: papers -> cleaned text -> token stores for training and validation, published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress

from megabiomed.checkpoint.files import fsync_directory, fsync_tree, remove_tree, sha256_file, write_json
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.encoding import BATCH, encode_documents
from megabiomed.corpus.readers import parse_files, read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.corpus.tokenizer import Tokenizer, train_tokenizer
from megabiomed.data.store import TokenStoreWriter
from megabiomed.errors import DataError

REPORT = "report.json"
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        inputs: .jsonl or .jsonl.gz files: shards of the Datasets API, or metadata shards of release 20200705v1.
        output: folder for train/, validation/, tokenizer/ and report.json.
        pdf_parses: for release 20200705v1, the folder (or shard) of pdf_parses to join.
        tokenizer: tokenizer.model to use; None trains one of `vocab_size` pieces on the training papers.
        validation_fraction: share of papers held out, chosen by a hash of their id.
        workers: tokenizing processes; the result does not depend on it. More than one are spawned, so a script that
            calls `build_corpus` needs the usual `if __name__ == "__main__"`.
        overwrite: replace an existing corpus at `output` (never another folder).
    """

    inputs: list[Path]
    output: Path
    layout: str = "auto"
    pdf_parses: Path | None = None
    tokenizer: Path | None = None
    vocab_size: int = 32000
    validation_fraction: float = 0.03
    workers: int = max(1, os.cpu_count() or 1)
    rules: CleanRules = field(default_factory=CleanRules)
    overwrite: bool = False


@dataclass
class _Account:
    """What became of every record: counters of papers and characters, of rejects, and of papers per file and split."""

    counts: Counter[str] = field(default_factory=Counter)
    rejects: Rejects = field(default_factory=Rejects)
    per_source: Counter[tuple[str, str]] = field(default_factory=Counter)

    def losses(self) -> str:
        """The most frequent reasons why papers are missing."""
        dropped = {what: n for what, n in self.counts.items() if what.startswith("papers: dropped")}
        reasons = Counter({**self.rejects.counts, **dropped})
        return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(6)) or "no records"


def build_corpus(options: BuildOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Run the build and return its report (also stored as report.json).

    Raises:
        DataError: an input is missing or empty, nothing is left after cleaning, or the output exists.
        TokenizerError: the tokenizer cannot be read, or the text is too small for one of `vocab_size` pieces.
    """
    _check(options)
    working = options.output.with_name(f".{options.output.name}.building")
    remove_tree(working)
    working.mkdir(parents=True)
    try:
        report = _build(options, working, progress)
        _publish(working, options.output)
    finally:
        remove_tree(working)
    return report


def _check(options: BuildOptions) -> None:
    if not options.inputs:
        raise DataError("no input files were given", do="name S2ORC .jsonl.gz files")
    for path in options.inputs:
        if not path.is_file():
            raise DataError(f"{path} is not there", do="check the path; shell patterns must match at least one file")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", do="fetch it again, or leave it out")
    repeated = [name for name, count in Counter(path.name for path in options.inputs).items() if count > 1]
    if repeated:
        raise DataError(
            "two inputs have the same file name, which names a document's source", got=repeated[0], do="rename one"
        )
    if not 0 <= options.validation_fraction < 1:
        raise DataError("validation_fraction is out of range", got=options.validation_fraction, expected="0 to below 1")
    if options.output.exists() and not options.overwrite:
        raise DataError(f"{options.output} exists already", do="choose another --output, or pass --overwrite")
    if options.output.exists() and not (options.output / REPORT).is_file():
        raise DataError(
            f"{options.output} is not a corpus, and --overwrite replaces nothing else",
            got=f"no {REPORT} in it",
            do="choose another --output, or remove it yourself",
        )


def _build(options: BuildOptions, working: Path, progress: Progress | None) -> dict[str, Any]:
    started, account = time.monotonic(), _Account()
    _spool(options, working, account, progress)
    if not account.counts["train"]:
        raise DataError(
            "nothing is left to train on", got=account.losses(), do="check the input layout and the cleaning rules"
        )
    tokenizer = _tokenizer(options, working, progress)
    hashes = [(path.name, sha256_file(path)) for path in _source_files(options)]
    report: dict[str, Any] = {
        "counts": dict(sorted(account.counts.items())),
        "rejects": {"counts": dict(account.rejects.counts), "samples": account.rejects.samples},
        "rules": asdict(options.rules),
    }
    for split in SPLITS:
        sources = [
            {"file": name, "sha256": sha256, "documents": account.per_source[name, split]} for name, sha256 in hashes
        ]
        report[split] = _tokenize(options, working, split, tokenizer, sources, account.counts[split], progress)
    report["vocab_size"], report["tokenizer_sha256"] = tokenizer.vocab_size, tokenizer.sha256
    report["seconds"] = round(time.monotonic() - started, 2)
    for split in SPLITS:
        (working / f"{split}.jsonl").unlink()
    write_json(working / REPORT, report)
    return report


def _publish(working: Path, output: Path) -> None:
    """Put the new corpus in its place; an old one is only deleted after that."""
    fsync_tree(working)
    old = output.with_name(f".{output.name}.replaced")
    remove_tree(old)
    if output.exists():
        output.rename(old)
    working.rename(output)
    fsync_directory(output.parent)
    remove_tree(old)


def _source_files(options: BuildOptions) -> list[Path]:
    """All files that papers come from: the inputs, and the pdf_parses joined with them."""
    joined = (parse_files(options.pdf_parses, path) for path in options.inputs) if options.pdf_parses else ()
    return list(dict.fromkeys([*options.inputs, *(file for files in joined for file in files)]))


def held_out(paper_id: str, fraction: float) -> bool:
    """Whether a paper belongs to validation: a hash of its id, so that order and other papers do not matter."""
    digest = hashlib.blake2b(paper_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _spool(options: BuildOptions, working: Path, account: _Account, progress: Progress | None) -> None:
    """Clean all papers into train.jsonl and validation.jsonl, so that memory does not grow with the text."""
    task = progress.add_task("clean", total=sum(path.stat().st_size for path in options.inputs)) if progress else None
    with (
        (working / "train.jsonl").open("w", encoding="utf-8") as train,
        (working / "validation.jsonl").open("w", encoding="utf-8") as validation,
    ):
        files = {"train": train, "validation": validation}
        for paper, text, done in _cleaned(options, account):
            split = "validation" if held_out(paper.paper_id, options.validation_fraction) else "train"
            account.counts[split] += 1
            account.per_source[paper.source, split] += 1
            origin = {"paper_id": paper.paper_id, "source": paper.source, "line": paper.line, "offset": paper.offset}
            files[split].write(json.dumps({"text": text, **origin, "ids": paper.ids}, ensure_ascii=False) + "\n")
            if progress and task is not None:
                papers = account.counts["papers: read"]
                progress.update(task, completed=done, description=f"clean ({papers:,} papers)")
        if progress and task is not None:
            progress.update(task, completed=progress.tasks[task].total)


def _cleaned(options: BuildOptions, account: _Account) -> Iterator[tuple[Paper, str, int]]:
    """Yield each paper that is kept, its text, and the bytes of the input files before its own."""
    seen: set[bytes] = set()
    done = 0
    for path in options.inputs:
        for paper in read_papers(path, options.layout, account.rejects, options.pdf_parses):
            account.counts["papers: read"] += 1
            key = hashlib.blake2b(paper.paper_id.encode(), digest_size=12).digest()
            if key in seen:
                account.counts["papers: dropped, id seen before"] += 1
                continue
            seen.add(key)
            text = clean(paper, options.rules, account.counts)
            if text is not None:
                yield paper, text, done
        done += path.stat().st_size


def _spooled(working: Path, split: str) -> Iterator[dict[str, Any]]:
    with (working / f"{split}.jsonl").open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _tokenizer(options: BuildOptions, working: Path, progress: Progress | None) -> Tokenizer:
    target = working / "tokenizer" / "tokenizer.model"
    if options.tokenizer is not None:
        given = Tokenizer(options.tokenizer)
        target.parent.mkdir()
        target.write_bytes(given.path.read_bytes())
        return Tokenizer(target)
    task = progress.add_task("train tokenizer", total=None) if progress else None
    tokenizer = train_tokenizer((r["text"] for r in _spooled(working, "train")), target, options.vocab_size)
    if progress and task is not None:
        progress.update(task, total=1, completed=1)
    return tokenizer


def _tokenize(
    options: BuildOptions, working: Path, split: str, tokenizer: Tokenizer, sources: list[dict[str, Any]],
    documents: int, progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """Write one store and return its figures."""
    started, tokens = time.monotonic(), 0
    task = progress.add_task(f"tokenize {split}", total=documents) if progress else None
    writer = TokenStoreWriter(
        working / split, tokenizer.path, tokenizer.vocab_size, sources, tokenizer.bos_id, tokenizer.eos_id
    )
    # A split of fewer batches than workers is done before a second process has even started.
    workers = options.workers if documents >= options.workers * BATCH else 1
    with writer as store:
        for ids, provenance in encode_documents(_spooled(working, split), tokenizer.path, workers):
            store.add(ids, provenance)
            tokens += len(ids)
            if progress and task is not None:
                progress.advance(task)
    seconds = time.monotonic() - started
    return {"documents": documents, "tokens": tokens, "tokens_per_s": round(tokens / max(seconds, 1e-9))}
