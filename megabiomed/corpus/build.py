"""The corpus build: papers -> cleaned text -> token stores for training and validation, published whole or not at all."""

from __future__ import annotations

import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from megabiomed.corpus.clean import CleanRules
from megabiomed.corpus.decontaminate import REPORT as CONTAMINATION
from megabiomed.corpus.decontaminate import contamination_report, read_items
from megabiomed.corpus.dedup import SHARED_IDS, held_out, repeated
from megabiomed.corpus.layouts import AUTO
from megabiomed.corpus.near import near_repeated
from megabiomed.corpus.pool import run_jobs
from megabiomed.corpus.readers import check_layout, parse_files
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.shards import CleanJob, TokenJob, clean_shard, read_part, tokenize_part
from megabiomed.data.store import TokenStoreWriter
from megabiomed.ground.errors import DataError, UserError, WorkerError
from megabiomed.ground.files import (
    fsync_directory,
    fsync_tree,
    remove_tree,
    sha256_file,
    write_atomic,
    write_json,
)
from megabiomed.tokenizer.tokenizer import Tokenizer, train_tokenizer

REPORT, REJECTS = "report.json", "rejects.jsonl"
__all__ = ["BuildOptions", "build_corpus", "held_out"]
SPLITS = ("train", "validation")
DROPPED = -1
IDENTITY = "identity.json"


@dataclass(frozen=True)
class BuildOptions:
    """What to build.

    Attributes:
        inputs: .jsonl or .jsonl.gz files: shards of the Datasets API, or metadata shards of release 20200705v1.
        output: folder for train/, validation/, tokenizer/, report.json and rejects.jsonl.
        pdf_parses: for release 20200705v1, the folder (or shard) of pdf_parses to join.
        tokenizer: tokenizer.model to use; None trains one of `vocab_size` pieces on the training papers.
        validation_fraction: share of papers held out, chosen by a hash of their id.
        workers: processes that clean and tokenize; the result does not depend on it. More than one are spawned, so a
            script that calls `build_corpus` needs the usual `if __name__ == "__main__"`.
        overwrite: replace an existing corpus at `output` (never another folder).
        exact_dedup: drop papers whose cleaned text is that of an earlier one but for case and white space.
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


def build_corpus(options: BuildOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Run the build and return its report (also stored as report.json).

    A build that was killed is gone on with by the same call: finished shards and parts are kept in a hidden folder beside
    `output`, for as long as options and input files stay the same. A wrong input or option leaves nothing behind.

    Raises:
        DataError: an input is missing or empty, nothing is left after cleaning, or the output exists.
        TokenizerError: the tokenizer cannot be read, or the text is too small for one of `vocab_size` pieces.
        WorkerError: a process died, or the disk is full; the same call goes on.
    """
    _check(options)
    working = options.output.with_name(f".{options.output.name}.building")
    _prepare(options, working)
    try:
        report = _Build(options, working, progress).run()
        _publish(working / "corpus", options.output)
    except UserError:
        remove_tree(working)
        raise
    except OSError as error:
        raise WorkerError(
            f"the work in {working} cannot be written", got=error.strerror or str(error),
            do="make room on the disk and give the same command again: finished parts are kept",
        ) from error  # fmt: skip
    remove_tree(working)
    return report


def _prepare(options: BuildOptions, working: Path) -> None:
    """Keep the work of an earlier build of the very same corpus; remove that of any other."""
    named = {name: str(value) for name, value in asdict(options).items() if name not in ("workers", "overwrite")}
    given = [*_source_files(options), *options.evaluation, *([options.tokenizer] if options.tokenizer else [])]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in given if path.is_file()]
    identity = json.dumps({"version": 2, "options": named, "files": files}, indent=1, default=str)
    marker = working / IDENTITY
    if marker.is_file() and marker.read_text() == identity:
        return
    remove_tree(working)
    working.mkdir(parents=True)
    write_atomic(marker, identity)


def _check(options: BuildOptions) -> None:
    if not options.inputs:
        raise DataError("no input files were given", do="name S2ORC .jsonl.gz files")
    check_layout(options.layout, options.pdf_parses)
    for path in options.inputs:
        if not path.is_file():
            raise DataError(f"{path} is not there", do="check the path; shell patterns must match at least one file")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty", do="fetch it again, or leave it out")
    for path in options.evaluation:
        read_items(path)
    namesakes = [name for name, count in Counter(path.name for path in options.inputs).items() if count > 1]
    if namesakes:
        raise DataError(
            "two inputs have the same file name, which names a document's source", got=namesakes[0], do="rename one"
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


class _Build:
    """One build: clean every source file, drop repeated documents, tokenize every part, join the parts in order."""

    def __init__(self, options: BuildOptions, working: Path, progress: Progress | None) -> None:
        self.options = options
        self.working = working
        self.progress = progress
        self.counts: Counter[str] = Counter()
        self.rejects = Rejects()
        self.parts: list[Path] = []
        self.tainted: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        hashes = self._clean()
        splits = self._split()
        if not self.counts["train"]:
            raise DataError(
                "nothing is left to train on", got=self._losses(), do="check the input layout and the cleaning rules"
            )
        tokenizer = self._tokenizer(splits)
        final = self.working / "corpus"
        remove_tree(final)
        final.mkdir()
        report: dict[str, Any] = {
            "counts": dict(sorted(self.counts.items())),
            "rejects": {"counts": dict(self.rejects.counts), "samples": self.rejects.samples},
            "rules": asdict(self.options.rules),
            **self._tokenize(splits, tokenizer, hashes, final),
        }
        report["vocab_size"], report["tokenizer_sha256"] = tokenizer.vocab_size, tokenizer.sha256
        (final / "tokenizer").mkdir()
        (final / "tokenizer" / "tokenizer.model").write_bytes(tokenizer.path.read_bytes())
        self._report_contamination(report, final)
        report["seconds"] = round(time.monotonic() - started, 2)
        write_atomic(final / REJECTS, "".join(self._reject_lines()))
        write_json(final / REPORT, report)
        return report

    def _clean(self) -> list[tuple[str, str]]:
        """Clean all source files; returns (name, sha256) of every file that papers come from."""
        o = self.options
        jobs = [
            CleanJob(
                path,
                self.working / "clean" / f"shard-{n:05d}",
                o.layout,
                o.pdf_parses,
                o.rules,
                tuple(o.evaluation),
                o.near_dedup,
            )
            for n, path in enumerate(o.inputs)
        ]
        sizes = [path.stat().st_size for path in o.inputs]
        accounts = run_jobs(clean_shard, jobs, o.workers, self._bar("clean", sum(sizes), sizes, "papers"))
        for job, account in zip(jobs, accounts):
            self.counts.update(account["counts"])
            self.rejects.merge(_rejects(account["rejects"]))
            self.tainted.extend(account["tainted"])
            self.parts.extend(job.folder / part for part in account["parts"])
        hashes = {account["file"]: account["sha256"] for account in accounts}
        files = _source_files(o)
        return [(path.name, hashes.get(path.name) or sha256_file(path)) for path in files]

    def _split(self) -> list[Path]:
        """Decide for every document of every part: train (0), validation (1), or dropped."""
        keys = [np.load(part.with_name(f"{part.name}.keys.npy"), mmap_mode="r") for part in self.parts]
        alive = [np.ones(len(part), dtype=np.bool_) for part in keys]
        for kind in ("id", *SHARED_IDS):
            self._drop_known(kind, keys, alive)
        if self.options.exact_dedup:
            self._discard(repeated([part["text"] for part in keys], alive), alive, "text seen before")
        if self.options.near_dedup:
            signatures = [np.load(part.with_name(f"{part.name}.minhash.npy"), mmap_mode="r") for part in self.parts]
            self._discard(near_repeated(signatures, alive), alive, "near duplicate")
        tainted = [part["tainted"] & kept for part, kept in zip(keys, alive)]
        if self.options.remove_contaminated:
            self._discard(tainted, alive, "evaluation items in them")
        paths = []
        for part, key, kept in zip(self.parts, keys, alive):
            held = key["split"] < np.uint64(math.ceil(self.options.validation_fraction * 2**64))
            split = np.where(kept, held.astype(np.int8), np.int8(DROPPED))
            for number, name in enumerate(SPLITS):
                self.counts[name] += int((split == number).sum())
            paths.append(part.with_name(f"{part.name}.split.npy"))
            np.save(paths[-1], split)
        self.counts["papers: kept"] = self.counts["train"] + self.counts["validation"]
        return paths

    def _drop_known(self, kind: str, keys: list[NDArray[Any]], alive: list[NDArray[np.bool_]]) -> None:
        """Drop papers with an id that an earlier one has; an abstract counts as later than any full text.

        Papers dropped for another id are looked at as well: of papers that share ids in a chain, the first alone is kept.
        """
        abstract = [part["abstract"] for part in keys]
        present = [np.asarray(part[kind].any(axis=1)) for part in keys]
        known = repeated([part[kind] for part in keys], present, abstract)
        for whole, reason in ((True, f"{kind} seen before"), (False, f"an abstract whose {kind} was seen before")):
            self._discard([k & (a != whole) for k, a in zip(known, abstract)], alive, reason)

    def _discard(self, unwanted: list[NDArray[np.bool_]], alive: list[NDArray[np.bool_]], reason: str) -> None:
        if dropped := sum(int((part & kept).sum()) for kept, part in zip(alive, unwanted)):
            self.counts[f"papers: dropped, {reason}"] += dropped
        for kept, part in zip(alive, unwanted):
            kept &= ~part

    def _report_contamination(self, report: dict[str, Any], final: Path) -> None:
        """Write decontamination.json into both stores, when evaluation sets were given."""
        if not self.options.evaluation:
            return
        items = [item for path in self.options.evaluation for item in read_items(path)]
        hashes = {path.name: sha256_file(path) for path in self.options.evaluation}
        found = [{**paper, "removed": self.options.remove_contaminated} for paper in self.tainted]
        account = contamination_report(items, found, hashes)
        for split in SPLITS:
            write_json(final / split / CONTAMINATION, account)
        report["decontamination"] = {
            "sets": account["sets"], "items_found": len(account["items"]), "papers": len(account["papers"]),
        }  # fmt: skip

    def _reject_lines(self) -> Iterator[str]:
        """One JSON line for each sample of damage: reason, how often it occurred in all, and the place."""
        for reason, samples in self.rejects.samples.items():
            for sample in samples:
                row = {"reason": reason, "count": self.rejects.counts[reason], "sample": sample}
                yield json.dumps(row, ensure_ascii=False) + "\n"

    def _losses(self) -> str:
        """The most frequent reasons why papers are missing."""
        dropped = {what: n for what, n in self.counts.items() if what.startswith("papers: dropped")}
        reasons = Counter({**self.rejects.counts, **dropped})
        return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(6)) or "no records"

    def _training_texts(self, splits: list[Path]) -> Iterator[str]:
        for part, split in zip(self.parts, splits):
            for number, document in zip(np.load(split).tolist(), read_part(_text_file(part))):
                if number == 0:
                    yield document["text"]

    def _tokenizer(self, splits: list[Path]) -> Tokenizer:
        target = self.working / "tokenizer.model"
        if target.is_file():
            return Tokenizer(target)
        if self.options.tokenizer is not None:
            write_atomic(target, Tokenizer(self.options.tokenizer).path.read_bytes())
            return Tokenizer(target)
        task = self.progress.add_task("train tokenizer", total=None) if self.progress else None
        tokenizer = train_tokenizer(self._training_texts(splits), target, self.options.vocab_size)
        if self.progress and task is not None:
            self.progress.update(task, total=1, completed=1)
        return tokenizer

    def _tokenize(
        self, splits: list[Path], tokenizer: Tokenizer, hashes: list[tuple[str, str]], final: Path
    ) -> dict[str, Any]:
        """Tokenize all parts and join them, in order, into one store a split; returns the figures of each split."""
        started = time.monotonic()
        folders = [self.working / "tokens" / f"{part.parent.name}-{part.name}" for part in self.parts]
        jobs = [
            TokenJob(_text_file(part), split, folder, tokenizer.path)
            for part, split, folder in zip(self.parts, splits, folders)
        ]
        sizes = [job.part.stat().st_size for job in jobs]
        bar = self._bar("tokenize", sum(sizes), sizes, "tokens")
        accounts = run_jobs(tokenize_part, jobs, self.options.workers, bar)
        seconds = time.monotonic() - started
        figures = {}
        for split in SPLITS:
            documents: Counter[str] = Counter()
            for account in accounts:
                documents.update(account[split]["sources"])
            sources = [{"file": name, "sha256": sha256, "documents": documents[name]} for name, sha256 in hashes]
            with TokenStoreWriter(
                final / split, tokenizer.path, tokenizer.vocab_size, sources, tokenizer.bos_id, tokenizer.eos_id
            ) as store:
                for folder in folders:
                    store.append(folder / f"{split}.bin", np.load(folder / f"{split}.npy"), folder / f"{split}.jsonl")
            tokens = sum(account[split]["tokens"] for account in accounts)
            figures[split] = {
                "documents": self.counts[split],
                "tokens": tokens,
                "tokens_per_s": round(tokens / max(seconds, 1e-9)),
            }
        return figures

    def _bar(self, name: str, total: int, sizes: list[int], unit: str) -> Callable[[int, int], None] | None:
        """A progress bar over bytes, with the work done and its rate in the label."""
        if self.progress is None:
            return None
        progress, started = self.progress, time.monotonic()
        task, ends = progress.add_task(name, total=total), [0, *np.cumsum(sizes).tolist()]

        def update(done: int, amount: int) -> None:
            rate = amount / max(time.monotonic() - started, 1e-9)
            label = f"{name} ({amount:,} {unit}, {rate:,.0f}/s)"
            progress.update(task, completed=ends[done], description=label)

        return update


def _text_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.jsonl")


def _rejects(account: dict[str, Any]) -> Rejects:
    rejects = Rejects()
    rejects.counts.update(account["counts"])
    rejects.samples.update(account["samples"])
    return rejects


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
