"""The corpus build: papers -> cleaned text -> token stores for training and validation, published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from megabiomed.checkpoint.files import fsync_tree, remove_tree, sha256_file, write_json
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.tokenizer import Tokenizer, train_tokenizer
from megabiomed.data.store import TokenStoreWriter
from megabiomed.errors import DataError

REPORT = "report.json"
_BATCH = 64


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        inputs: .jsonl or .jsonl.gz files: shards of the Datasets API, or metadata shards of release 20200705v1.
        output: folder for train/, validation/, tokenizer/ and report.json.
        pdf_parses: for release 20200705v1, the folder (or shard) of pdf_parses to join.
        tokenizer: tokenizer.model to use; None trains one of `vocab_size` pieces on the training papers.
        validation_fraction: share of papers held out, chosen by a hash of their id.
        workers: tokenizing processes; the result does not depend on it.
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


def build_corpus(options: BuildOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Run the build and return its report (also stored as report.json).

    Raises:
        DataError: an input is missing, nothing is left after cleaning, or the output exists.
    """
    _check(options)
    working = options.output.with_name(f".{options.output.name}.building")
    remove_tree(working)
    working.mkdir(parents=True)
    started = time.monotonic()
    try:
        rejects = Rejects()
        counts = _spool(options, working, rejects, progress)
        if not counts["train"]:
            reasons = (
                ", ".join(f"{count} x {reason}" for reason, count in rejects.counts.most_common(6)) or "no records"
            )
            raise DataError(
                "nothing is left to train on", got=reasons, do="check the input layout and the cleaning rules"
            )
        tokenizer = _tokenizer(options, working, progress)
        sources = [{"file": path.name, "sha256": sha256_file(path)} for path in options.inputs]
        report: dict[str, Any] = {
            "counts": dict(sorted(counts.items())),
            "rejects": {"counts": dict(rejects.counts), "samples": rejects.samples},
            "rules": asdict(options.rules),
        }
        for split in ("train", "validation"):
            report[split] = _tokenize(options, working, split, tokenizer, sources, counts[split], progress)
        report["vocab_size"], report["tokenizer_sha256"] = tokenizer.vocab_size, tokenizer.sha256
        report["seconds"] = round(time.monotonic() - started, 2)
        for split in ("train", "validation"):
            (working / f"{split}.jsonl").unlink()
        write_json(working / REPORT, report)
        fsync_tree(working)
        remove_tree(options.output)
        working.rename(options.output)
    finally:
        remove_tree(working)
    return report


def _check(options: BuildOptions) -> None:
    if not options.inputs:
        raise DataError("no input files were given", do="name S2ORC .jsonl.gz files")
    for path in options.inputs:
        if not path.is_file():
            raise DataError(f"{path} is not there", do="check the path; shell patterns must match at least one file")
    if options.output.exists() and not options.overwrite:
        raise DataError(f"{options.output} exists already", do="choose another --output, or pass --overwrite")


def held_out(paper_id: str, fraction: float) -> bool:
    """Whether a paper belongs to validation: a hash of its id, so that order and other papers do not matter."""
    digest = hashlib.blake2b(paper_id.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def _spool(options: BuildOptions, working: Path, rejects: Rejects, progress: Progress | None) -> Counter[str]:
    """Clean all papers into train.jsonl and validation.jsonl, so that memory does not grow with the corpus."""
    counts: Counter[str] = Counter()
    seen: set[bytes] = set()
    task = progress.add_task("clean", total=sum(path.stat().st_size for path in options.inputs)) if progress else None
    with (working / "train.jsonl").open("w") as train, (working / "validation.jsonl").open("w") as validation:
        for path in options.inputs:
            for paper in read_papers(path, options.layout, rejects, options.pdf_parses):
                counts["papers: read"] += 1
                key = hashlib.blake2b(paper.paper_id.encode(), digest_size=12).digest()
                if key in seen:
                    counts["papers: dropped, id seen before"] += 1
                    continue
                seen.add(key)
                text = clean(paper, options.rules, counts)
                if text is None:
                    continue
                split = "validation" if held_out(paper.paper_id, options.validation_fraction) else "train"
                counts[split] += 1
                origin = {
                    "paper_id": paper.paper_id,
                    "source": paper.source,
                    "line": paper.line,
                    "offset": paper.offset,
                }
                record = json.dumps({"text": text, **origin, "ids": paper.ids}, ensure_ascii=False)
                (train if split == "train" else validation).write(record + "\n")
            if progress and task is not None:
                progress.advance(task, path.stat().st_size)
    return counts


def _spooled(working: Path, split: str) -> Iterator[dict[str, Any]]:
    with (working / f"{split}.jsonl").open() as file:
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


_worker_tokenizer: Tokenizer | None = None


def _start_worker(path: str) -> None:
    global _worker_tokenizer
    _worker_tokenizer = Tokenizer(path)


def _encode(records: list[dict[str, Any]]) -> list[tuple[np.ndarray[Any, Any], dict[str, Any]]]:
    assert _worker_tokenizer is not None
    encoded = _worker_tokenizer.encode_batch([record.pop("text") for record in records])
    return [(np.asarray(ids, dtype=np.int32), record) for ids, record in zip(encoded, records)]


def _batches(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while batch := list(islice(records, _BATCH)):
        yield batch


def _tokenize(
    options: BuildOptions, working: Path, split: str, tokenizer: Tokenizer, sources: list[dict[str, str]],
    documents: int, progress: Progress | None,
) -> dict[str, Any]:  # fmt: skip
    """Write one store. Workers encode batches; `imap` returns them in input order whatever the number of workers."""
    started, tokens = time.monotonic(), 0
    task = progress.add_task(f"tokenize {split}", total=documents) if progress else None
    batches = _batches(_spooled(working, split))
    with TokenStoreWriter(working / split, tokenizer.path, tokenizer.vocab_size, sources) as store:
        context = multiprocessing.get_context("fork")
        with context.Pool(options.workers, _start_worker, (str(tokenizer.path),)) as pool:
            for batch in pool.imap(_encode, batches):
                for ids, provenance in batch:
                    store.add(ids, provenance)
                    tokens += len(ids)
                if progress and task is not None:
                    progress.advance(task, len(batch))
    seconds = time.monotonic() - started
    return {"documents": documents, "tokens": tokens, "tokens_per_s": round(tokens / max(seconds, 1e-9))}
