"""The corpus build: papers -> cleaned text -> token stores for training and validation, published complete or not at all."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from megabiomed.corpus.datasheet import write_datasheet
from megabiomed.corpus.decontaminate import REPORT as CONTAMINATION
from megabiomed.corpus.decontaminate import contamination_report, read_items
from megabiomed.corpus.dedup import SHARED_IDS, repeated
from megabiomed.corpus.encoding import choose_encoding
from megabiomed.corpus.near import near_repeated
from megabiomed.corpus.options import REPORT, BuildOptions, check, identity, source_files
from megabiomed.corpus.pool import run_jobs
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
from megabiomed.tokenizer.files import SENTENCEPIECE, copy_into, find_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

__all__ = ["BuildOptions", "build_corpus"]
REJECTS = "rejects.jsonl"
IDENTITY = "identity.json"
SPLITS = ("train", "validation")
"""A document's split is its index here."""
DROPPED = -1


def build_corpus(options: BuildOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Run the build and return its report (also stored as report.json).

    Calling it again resumes a killed build: finished shards and parts are kept in a hidden folder next to `output`, as long
    as options and input files stay the same. A wrong input or option leaves nothing behind; only when no paper was left, the
    rejects stay as OUTPUT.rejects.jsonl.

    Raises:
        DataError: an input is missing or empty, nothing is left after cleaning, or the output exists.
        TokenizerError: the tokenizer cannot be read, or the text is too small for one of `vocab_size` pieces.
        WorkerError: a process died, or the disk is full; calling it again resumes the build.
    """
    check(options)
    working = options.output.with_name(f".{options.output.name}.building")
    _prepare(options, working)
    try:
        report = _Build(options, working, progress).run()
        _publish(working / "corpus", options.output)
    except UserError:
        # Other input or options make another corpus: none of this work could be used for it.
        remove_tree(working)
        raise
    except OSError as error:
        raise WorkerError(
            f"the work in {working} cannot be written",
            got=error.strerror or str(error),
            do="make room on the disk and run the same command again: finished parts are kept",
        ) from error
    remove_tree(working)
    _kept_rejects(options).unlink(missing_ok=True)  # of an earlier try that kept no paper
    return report


def _prepare(options: BuildOptions, working: Path) -> None:
    """Keep the work of an unfinished build of the same corpus; remove that of any other."""
    wanted, marker = identity(options), working / IDENTITY
    if marker.is_file() and marker.read_text() == wanted:
        return
    remove_tree(working)
    working.mkdir(parents=True)
    write_atomic(marker, wanted)


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
            raise DataError("nothing is left to train on", got=self._losses(), do=self._keep_rejects())
        # Only now: it is trained on what is left for training.
        tokenizer = self._tokenizer(splits)
        final = self.working / "corpus"
        # A build that was killed here has left a part of it.
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
        copy_into(final / "tokenizer", tokenizer.path)
        self._report_contamination(report, final)
        report["seconds"] = round(time.monotonic() - started, 2)
        write_atomic(final / REJECTS, "".join(self._reject_lines()))
        write_json(final / REPORT, report)
        write_datasheet(final, report, self.options.output.name)
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
        # Bytes stand for work: how many papers there are is known only when all are read.
        sizes = [path.stat().st_size for path in o.inputs]
        accounts = run_jobs(clean_shard, jobs, o.workers, self._bar("clean", sum(sizes), sizes, "papers"))
        for job, account in zip(jobs, accounts):
            self.counts.update(account["counts"])
            self.rejects.merge(_rejects(account["rejects"]))
            self.tainted.extend(account["tainted"])
            self.parts.extend(job.folder / part for part in account["parts"])
        hashes = {account["file"]: account["sha256"] for account in accounts}
        files = source_files(o)
        # Parses that are joined have no job of their own, so their hash is taken here.
        return [(path.name, hashes.get(path.name) or sha256_file(path)) for path in files]

    def _split(self) -> list[Path]:
        """Decide for every document of every part: train (0), validation (1), or dropped."""
        # Mapped, not read: the keys of a full corpus are gigabytes, and `repeated` looks at a sixteenth at a time.
        keys = [np.load(part.with_name(f"{part.name}.keys.npy"), mmap_mode="r") for part in self.parts]
        alive = [np.ones(len(part), dtype=np.bool_) for part in keys]
        # From the surest reason to the weakest: a paper is counted under the first one that applies to it. Near duplicates
        # come after all exact ones, because their table holds every paper that is still alive.
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
            # The hash of its id decides, not a draw: a paper that was held out once is held out by every later build, of a
            # larger corpus too, so a model that continues from an older one is not validated on what that one has read.
            validation = key["split"] < np.uint64(math.ceil(self.options.validation_fraction * 2**64))
            split = np.where(kept, validation.astype(np.int8), np.int8(DROPPED))
            for number, name in enumerate(SPLITS):
                self.counts[name] += int((split == number).sum())
            paths.append(part.with_name(f"{part.name}.split.npy"))
            np.save(paths[-1], split)
        self.counts["papers: kept"] = self.counts["train"] + self.counts["validation"]
        return paths

    def _drop_known(self, kind: str, keys: list[NDArray[Any]], alive: list[NDArray[np.bool_]]) -> None:
        """Drop papers with an id that an earlier one has; an abstract counts as later than any full text.

        Papers dropped for another id are compared as well: of papers that share ids in a chain, only the first is kept.
        """
        abstract = [part["abstract"] for part in keys]
        # A key of zeros stands for "no such id", which two papers do not share.
        present = [np.asarray(part[kind].any(axis=1)) for part in keys]
        known = repeated([part[kind] for part in keys], present, abstract)
        reasons = {False: f"{kind} seen before", True: f"an abstract whose {kind} was seen before"}
        for is_abstract, reason in reasons.items():
            self._discard([k & (a == is_abstract) for k, a in zip(known, abstract)], alive, reason)

    def _discard(self, unwanted: list[NDArray[np.bool_]], alive: list[NDArray[np.bool_]], reason: str) -> None:
        """Take papers out of `alive`, in place, and count those that were still in it."""
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
        papers = [{**paper, "removed": self.options.remove_contaminated} for paper in self.tainted]
        account = contamination_report(items, papers, hashes)
        for split in SPLITS:
            write_json(final / split / CONTAMINATION, account)
        report["decontamination"] = {
            "sets": account["sets"],
            "items_found": len(account["items"]),
            "papers": len(account["papers"]),
        }

    def _reject_lines(self) -> Iterator[str]:
        """One JSON line for each sample of damage: reason, how often it occurred in all, and the place."""
        for reason, samples in self.rejects.samples.items():
            for sample in samples:
                row = {"reason": reason, "count": self.rejects.counts[reason], "sample": sample}
                yield json.dumps(row, ensure_ascii=False) + "\n"

    def _keep_rejects(self) -> str:
        """Write the rejects beside the output, which nothing else would keep of this build; returns what to do."""
        do = "check the input layout and the cleaning rules"
        if not self.rejects.counts:
            return do
        path = _kept_rejects(self.options)
        write_atomic(path, "".join(self._reject_lines()))
        return f"{do}; {path} has examples"

    def _losses(self) -> str:
        """The most frequent reasons why papers are missing, with an example of the first one that is a damage."""
        dropped = {what: n for what, n in self.counts.items() if what.startswith("papers: dropped")}
        reasons = Counter({**self.rejects.counts, **dropped})
        losses = [f"{count} x {reason}" for reason, count in reasons.most_common(6)]
        example = next((self.rejects.samples[reason][0] for reason, _ in self.rejects.counts.most_common(1)), "")
        return ", ".join(losses) + (f" ({example})" if example else "") if losses else "no records"

    def _training_texts(self, splits: list[Path]) -> Iterator[str]:
        """Papers of the training split alone: a tokenizer that has seen the validation papers would cut them better."""
        for part, split in zip(self.parts, splits):
            for number, document in zip(np.load(split).tolist(), read_part(_text_file(part))):
                if number == 0:
                    yield document["text"]

    def _tokenizer(self, splits: list[Path]) -> Tokenizer:
        # A build that goes on must use the tokenizer that cut its finished parts.
        held = find_in(self.working)
        if held is not None:
            return open_tokenizer(held)
        if self.options.tokenizer is not None:
            return open_tokenizer(copy_into(self.working, self.options.tokenizer))
        task = self.progress.add_task("train tokenizer", total=None) if self.progress else None
        tokenizer = train_tokenizer(self._training_texts(splits), self.working / SENTENCEPIECE, self.options.vocab_size)
        if self.progress and task is not None:
            self.progress.update(task, total=1, completed=1)
        return tokenizer

    def _tokenize(
        self, splits: list[Path], tokenizer: Tokenizer, hashes: list[tuple[str, str]], final: Path
    ) -> dict[str, Any]:
        """Tokenize all parts and join them, in order, into one store per split.

        Returns:
            the figures of each split, and under "encoder" what encoded them.
        """
        started = time.monotonic()
        encoding = choose_encoding(tokenizer, [_text_file(part) for part in self.parts], splits, self.working)
        folders = [self.working / "tokens" / f"{part.parent.name}-{part.name}" for part in self.parts]
        jobs = [
            TokenJob(_text_file(part), split, folder, tokenizer.path, encoding.converted)
            for part, split, folder in zip(self.parts, splits, folders)
        ]
        sizes = [job.part.stat().st_size for job in jobs]
        bar = self._bar("tokenize", sum(sizes), sizes, "tokens")
        accounts = run_jobs(tokenize_part, jobs, self.options.workers, bar)
        seconds = time.monotonic() - started
        encoder = encoding.account([account.get("refused", {}) for account in accounts])
        figures: dict[str, Any] = {"encoder": encoder}
        for split in SPLITS:
            documents, licences = Counter[str](), Counter[str]()
            for account in accounts:
                documents.update(account[split]["sources"])
                licences.update(account[split].get("licences", {}))
            sources = [{"file": name, "sha256": sha256, "documents": documents[name]} for name, sha256 in hashes]
            with TokenStoreWriter(
                final / split,
                tokenizer.path,
                tokenizer.vocab_size,
                sources,
                tokenizer.bos_id,
                tokenizer.eos_id,
                encoder,
            ) as store:
                # In the order of the inputs, whichever worker was done first: the bytes do not depend on the workers.
                for folder in folders:
                    store.append(folder / f"{split}.bin", np.load(folder / f"{split}.npy"), folder / f"{split}.jsonl")
            tokens = sum(account[split]["tokens"] for account in accounts)
            figures[split] = {
                "documents": self.counts[split],
                "tokens": tokens,
                "tokens_per_s": round(tokens / max(seconds, 1e-9)),
                "licences": dict(sorted(licences.items())),
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


def _kept_rejects(options: BuildOptions) -> Path:
    """Where the rejects of a build without papers stay."""
    return options.output.with_name(f"{options.output.name}.{REJECTS}")


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
    # A folder that is not empty cannot be replaced by one rename, so the old corpus steps aside first. A crash between the
    # two renames leaves both corpora complete under other names, and the same command publishes again.
    old = output.with_name(f".{output.name}.replaced")
    remove_tree(old)
    if output.exists():
        output.rename(old)
    working.rename(output)
    fsync_directory(output.parent)
    remove_tree(old)
