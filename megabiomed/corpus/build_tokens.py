"""The last steps of a build: its tokenizer, the tokens of every part, and the stores that the parts are joined into."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from megabiomed.corpus.build_bars import byte_bar
from megabiomed.corpus.encoding import choose_encoding
from megabiomed.corpus.options import BuildOptions
from megabiomed.corpus.pool import run_jobs
from megabiomed.corpus.shards import SPLITS, TokenJob, read_part, text_file, tokenize_part
from megabiomed.data.store import TokenStoreWriter
from megabiomed.tokenizer.files import SENTENCEPIECE, copy_into, find_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer


def build_tokenizer(
    options: BuildOptions, working: Path, parts: Sequence[Path], splits: Sequence[Path], progress: Progress | None
) -> Tokenizer:
    """The tokenizer of a build, kept in its folder: the one that the options name, or one trained on the training papers.

    Args:
        parts, splits: see `tokenize`.
    """
    # A build that goes on must use the tokenizer that cut its finished parts.
    held = find_in(working)
    if held is not None:
        return open_tokenizer(held)
    if options.tokenizer is not None:
        return open_tokenizer(copy_into(working, options.tokenizer))
    task = progress.add_task("train tokenizer", total=None) if progress else None
    tokenizer = train_tokenizer(_training_texts(parts, splits), working / SENTENCEPIECE, options.vocab_size)
    if progress and task is not None:
        progress.update(task, total=1, completed=1)
    return tokenizer


def _training_texts(parts: Sequence[Path], splits: Sequence[Path]) -> Iterator[str]:
    """Papers of the training split alone: a tokenizer that has seen the validation papers would cut them better."""
    for part, split in zip(parts, splits):
        for number, document in zip(np.load(split).tolist(), read_part(text_file(part))):
            if number == 0:
                yield document["text"]


class Tokenizing:
    """Tokenizes the parts of a build and joins them.

    Args:
        parts: cleaned parts in the order of the corpus.
        splits: of each, the file that says which of its documents go where.
        working: the folder of the unfinished build.
    """

    def __init__(
        self, parts: Sequence[Path], splits: Sequence[Path], tokenizer: Tokenizer, working: Path, workers: int
    ) -> None:
        self._parts, self._splits = parts, splits
        self._tokenizer, self._working = tokenizer, working
        self._workers = workers
        self._folders = [working / "tokens" / f"{part.parent.name}-{part.name}" for part in parts]

    def run(self, hashes: Sequence[tuple[str, str]], final: Path, progress: Progress | None) -> dict[str, Any]:
        """Tokenize all parts and join them, in order, into one store per split.

        Args:
            hashes: (name, sha256) of every source file.
            final: folder for the stores.

        Returns:
            the figures of each split, and under "encoder" what encoded them.
        """
        started = time.monotonic()
        encoding = choose_encoding(
            self._tokenizer, [text_file(part) for part in self._parts], self._splits, self._working
        )
        jobs = [
            TokenJob(text_file(part), split, folder, self._tokenizer.path, encoding.converted)
            for part, split, folder in zip(self._parts, self._splits, self._folders)
        ]
        bar = byte_bar(progress, "tokenize", [job.part.stat().st_size for job in jobs], "tokens")
        accounts = run_jobs(tokenize_part, jobs, self._workers, bar)
        seconds = time.monotonic() - started
        encoder = encoding.account([account.get("refused", {}) for account in accounts])
        figures: dict[str, Any] = {"encoder": encoder}
        for split in SPLITS:
            self._join(split, accounts, hashes, final, encoder)
            figures[split] = _figures([account[split] for account in accounts], seconds)
        return figures

    def _join(
        self,
        split: str,
        accounts: Sequence[Mapping[str, Any]],
        hashes: Sequence[tuple[str, str]],
        final: Path,
        encoder: Mapping[str, Any],
    ) -> None:
        documents = Counter[str]()
        for account in accounts:
            documents.update(account[split]["sources"])
        sources = [{"file": name, "sha256": sha256, "documents": documents[name]} for name, sha256 in hashes]
        tokenizer = self._tokenizer
        ids = (tokenizer.bos_id, tokenizer.eos_id)
        with TokenStoreWriter(
            final / split, tokenizer.path, tokenizer.vocab_size, sources, *ids, encoder=encoder
        ) as store:
            # In the order of the inputs, whichever worker was done first: the bytes do not depend on the workers.
            for folder in self._folders:
                store.append(folder / f"{split}.bin", np.load(folder / f"{split}.npy"), folder / f"{split}.jsonl")


def _figures(accounts: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Of one split; `seconds` are those of tokenizing both."""
    licences = Counter[str]()
    for account in accounts:
        licences.update(account.get("licences", {}))
    tokens = sum(account["tokens"] for account in accounts)
    return {
        "documents": sum(account["documents"] for account in accounts),
        "tokens": tokens,
        "tokens_per_s": round(tokens / max(seconds, 1e-9)),
        "licences": dict(sorted(licences.items())),
    }
