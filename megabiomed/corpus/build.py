"""The corpus build: papers -> cleaned text -> token stores for training and validation, published complete or not at all."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.progress import Progress

from megabiomed.corpus.build_bars import BuildBars, step_costs
from megabiomed.corpus.build_losses import REJECTS, keep_rejects, kept_rejects, losses, reject_lines, rejects_of
from megabiomed.corpus.build_select import select_papers
from megabiomed.corpus.build_tokens import Tokenizing, held_tokenizer, trained_tokenizer
from megabiomed.corpus.datasheet import write_datasheet
from megabiomed.corpus.decontaminate import REPORT as CONTAMINATION
from megabiomed.corpus.decontaminate import contamination_report, read_items
from megabiomed.corpus.entries import shard_folder
from megabiomed.corpus.job_runner import Engine, EngineRunner
from megabiomed.corpus.options import REPORT, BuildOptions, check, identity, source_files
from megabiomed.corpus.pool import JobRunner, WorkerPool
from megabiomed.corpus.records import Rejects
from megabiomed.corpus.shards import DONE, SPLITS, CleanJob, clean_shard
from megabiomed.ground.errors import DataError, LaunchError, UserError, WorkerError
from megabiomed.ground.files import fsync_directory, fsync_tree, remove_tree, sha256_file, write_atomic, write_json
from megabiomed.ground.storage import refusal
from megabiomed.tokenizer.choose_encoder import EncoderComparison
from megabiomed.tokenizer.files import copy_into

__all__ = ["BuildOptions", "build_corpus"]
IDENTITY = "identity.json"


def build_corpus(
    options: BuildOptions, progress: Progress | None = None, engine: Engine | None = None
) -> dict[str, Any]:
    """Run the build and return its report (also stored as report.json).

    Calling it again resumes a killed build: finished shards and parts are kept in a hidden folder next to `output`, as long
    as options and input files stay the same. A wrong input or option leaves nothing behind; only when no paper was left, the
    rejects stay as OUTPUT.rejects.jsonl.

    Args:
        engine: what runs the jobs of a step; None takes `options.workers` processes of this machine. The bytes are the same.

    Raises:
        DataError: an input is missing or empty, nothing is left after cleaning, or the output exists.
        TokenizerError: the tokenizer cannot be read, or the text is too small for one of `vocab_size` pieces.
        WorkerError: a process died, or the disk is full; calling it again resumes the build.
        LaunchError: `engine` cannot start jobs here; what is finished is kept.
    """
    check(options)
    working = options.output.with_name(f".{options.output.name}.building")
    _prepare(options, working)
    try:
        with _runner(options, working, engine) as runner:
            report = _Build(options, working, progress, runner).run()
        _publish(working / "corpus", options.output)
    except LaunchError:
        raise  # a cluster that refuses jobs now may take them later
    except UserError:
        # Other input or options make another corpus: none of this work could be used for it.
        remove_tree(working)
        raise
    except OSError as error:
        raise WorkerError(
            f"the work in {working} cannot be written",
            got=refusal(error, working),
            do="make room there (bytes, files, or your quota) and run the same command again: finished parts are kept",
        ) from error
    remove_tree(working)
    kept_rejects(options).unlink(missing_ok=True)  # of an earlier try that kept no paper
    return report


def _runner(options: BuildOptions, working: Path, engine: Engine | None) -> WorkerPool | EngineRunner:
    return WorkerPool(options.workers) if engine is None else EngineRunner(working / "jobs", engine, options.workers)


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

    def __init__(self, options: BuildOptions, working: Path, progress: Progress | None, runner: JobRunner) -> None:
        self.options = options
        self.working = working
        costs = step_costs(options.workers, options.near_dedup, trains=options.tokenizer is None)
        self.bars = BuildBars(progress, costs)
        self.run_jobs = runner
        self.counts: Counter[str] = Counter()
        self.rejects = Rejects()
        self.parts: list[Path] = []
        self.tainted: list[dict[str, Any]] = []
        self.accounts: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        started = time.monotonic()
        # Before the cleaning, because it is done here while the workers start.
        tokenizer = held_tokenizer(self.options, self.working)
        comparison = None if tokenizer is None else EncoderComparison(tokenizer)
        hashes = self._clean()
        splits = select_papers(self.options, self.working, self.accounts, self.counts, self.run_jobs, self.bars)
        if not self.counts["train"]:
            got, do = losses(self.counts, self.rejects), keep_rejects(self.options, self.rejects)
            raise DataError("nothing is left to train on", got=got, do=do)
        if tokenizer is None:
            tokenizer = trained_tokenizer(self.options, self.working, self.parts, splits, self.bars)
        final = self.working / "corpus"
        # A build that was killed here has left a part of it.
        remove_tree(final)
        final.mkdir()
        report: dict[str, Any] = {
            "counts": dict(sorted(self.counts.items())),
            "rejects": {"counts": dict(self.rejects.counts), "samples": self.rejects.samples},
            "rules": asdict(self.options.rules),
        }
        tokenizing = Tokenizing(self.parts, splits, tokenizer, comparison, self.working, self.run_jobs)
        report |= tokenizing.run(hashes, final, self.bars)
        report["vocab_size"], report["tokenizer_sha256"] = tokenizer.vocab_size, tokenizer.sha256
        (final / "tokenizer").mkdir()
        copy_into(final / "tokenizer", tokenizer.path)
        self._report_contamination(report, final)
        report["seconds"] = round(time.monotonic() - started, 2)
        write_atomic(final / REJECTS, "".join(reject_lines(self.rejects)))
        write_json(final / REPORT, report)
        write_datasheet(final, report, self.options.output.name)
        return report

    def _clean(self) -> list[tuple[str, str]]:
        """Clean all source files; returns (name, sha256) of every file that papers come from."""
        o = self.options
        evaluation, clean = tuple(o.evaluation), self.working / "clean"
        jobs = [
            CleanJob(path, clean, n, o.layout, o.pdf_parses, o.rules, evaluation, o.exact_dedup, o.near_dedup)
            for n, path in enumerate(o.inputs)
        ]
        # Bytes stand for work: how many papers there are is known only when all are read.
        sizes = [path.stat().st_size for path in o.inputs]
        done = [(shard_folder(clean, job.shard) / DONE).is_file() for job in jobs]
        bar = self.bars.step("clean", sizes, "papers", done)
        self.accounts = accounts = self.run_jobs(clean_shard, jobs, on_progress=bar)
        for job, account in zip(jobs, accounts):
            self.counts.update(account["counts"])
            self.rejects.merge(rejects_of(account["rejects"]))
            self.tainted.extend(account["tainted"])
            self.parts.extend(shard_folder(clean, job.shard) / part for part in account["parts"])
        hashes = {job.path: str(account["sha256"]) for job, account in zip(jobs, accounts)}
        # Parses that are joined have no job of their own so far, and one of them may be read by several.
        joined = [path for path in source_files(o) if path not in hashes]
        hashes |= dict(zip(joined, self.run_jobs(sha256_file, joined)))
        return [(path.name, hashes[path]) for path in source_files(o)]

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
