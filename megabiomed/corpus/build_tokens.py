"""The last steps of a build: its tokenizer, the tokens of every part, and the stores that the parts are joined into."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megabiomed.corpus.build_bars import BuildBars
from megabiomed.corpus.cleaned_parts import read_texts, text_file
from megabiomed.corpus.encoding import choose_encoding
from megabiomed.corpus.options import BuildOptions
from megabiomed.corpus.pool import JobRunner
from megabiomed.corpus.shards import COUNTED, DONE, SPLITS, TokenJob, tokenize_part
from megabiomed.data.store_parts import StoreFromParts, StorePart, copy_parts
from megabiomed.ground.files import sha256_file
from megabiomed.tokenizer.choose_encoder import EncoderComparison
from megabiomed.tokenizer.files import SENTENCEPIECE, copy_into, find_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer


def held_tokenizer(options: BuildOptions, working: Path) -> Tokenizer | None:
    """The tokenizer that the options name, or that an earlier command has trained; kept in the folder of the build."""
    # A build that goes on must use the tokenizer that cut its finished parts.
    held = find_in(working)
    if held is not None:
        return open_tokenizer(held)
    return None if options.tokenizer is None else open_tokenizer(copy_into(working, options.tokenizer))


def trained_tokenizer(
    options: BuildOptions, working: Path, parts: Sequence[Path], splits: Sequence[Path], bars: BuildBars
) -> Tokenizer:
    """A tokenizer trained on the training papers, kept in the folder of the build.

    Args:
        parts, splits: see `Tokenizing`.
    """
    ended = bars.alone("train tokenizer")
    tokenizer = train_tokenizer(_training_texts(parts, splits), working / SENTENCEPIECE, options.vocab_size)
    ended()
    return tokenizer


def _training_texts(parts: Sequence[Path], splits: Sequence[Path]) -> Iterator[str]:
    """Papers of the training split alone: a tokenizer that has seen the validation papers would cut them better."""
    for part, split in zip(parts, splits):
        yield from read_texts(part, (np.load(split) == 0).tolist())


class Tokenizing:
    """Tokenizes the parts of a build and joins them.

    Args:
        parts: cleaned parts in the order of the corpus.
        splits: of each, the file that says which of its documents go where.
        tokenizer: cuts them.
        comparison: of this tokenizer; None makes one.
        working: the folder of the unfinished build.
        runner: runs the jobs.
    """

    def __init__(
        self,
        parts: Sequence[Path],
        splits: Sequence[Path],
        tokenizer: Tokenizer,
        comparison: EncoderComparison | None,
        working: Path,
        runner: JobRunner,
    ) -> None:
        self._parts, self._splits = parts, splits
        self._tokenizer, self._working = tokenizer, working
        self._comparison = comparison or EncoderComparison(tokenizer)
        self._run_jobs = runner
        self._folders = [working / "tokens" / f"{part.parent.name}-{part.name}" for part in parts]

    def run(self, hashes: Sequence[tuple[str, str]], final: Path, bars: BuildBars) -> dict[str, Any]:
        """Tokenize all parts and join them, in order, into one store per split.

        Args:
            hashes: (name, sha256) of every source file.
            final: folder for the stores.

        Returns:
            the figures of each split, and under "encoder" what encoded them.
        """
        started = time.monotonic()
        encoding = choose_encoding(self._comparison, self._parts, self._splits, self._working)
        jobs = [
            TokenJob(part, split, folder, self._tokenizer.path, encoding.converted)
            for part, split, folder in zip(self._parts, self._splits, self._folders)
        ]
        sizes, done = (
            [text_file(job.part).stat().st_size for job in jobs],
            [(job.folder / DONE).is_file() for job in jobs],
        )
        bar = bars.step("tokenize", sizes, "tokens", done)
        accounts = self._run_jobs(tokenize_part, jobs, on_progress=bar)
        seconds = time.monotonic() - started
        encoder = encoding.account([account.get("refused", {}) for account in accounts])
        self._join(accounts, hashes, final, encoder, bars)
        figures = {split: _figures([account[split] for account in accounts], seconds) for split in SPLITS}
        return {"encoder": encoder, **figures}

    def _join(
        self,
        accounts: Sequence[Mapping[str, Any]],
        hashes: Sequence[tuple[str, str]],
        final: Path,
        encoder: Mapping[str, Any],
        bars: BuildBars,
    ) -> None:
        """Join the parts of both splits, job by job, then hash the files, each in a job."""
        tokenizer = self._tokenizer
        stores = []
        for split in SPLITS:
            own = [account[split] for account in accounts]
            documents = _summed(own, "sources")
            more = {
                "bos_id": tokenizer.bos_id,
                "eos_id": tokenizer.eos_id,
                "sources": [{"file": n, "sha256": sha256, "documents": documents[n]} for n, sha256 in hashes],
                "encoder": dict(encoder),
            }
            # In the order of the inputs, whichever worker was done first: the bytes do not depend on the workers.
            parts = [_store_part(folder, split, account) for folder, account in zip(self._folders, own)]
            stores.append(StoreFromParts(final / split, parts, tokenizer.path, tokenizer.vocab_size, more))
        # The stores are new, whatever an earlier command has copied into those that it began.
        copies = [job for store in stores for job in store.jobs]
        bar = bars.step("join", [1] * len(copies), "parts")
        self._run_jobs(copy_parts, copies, on_progress=bar, anew=True)
        files = [file for store in stores for file in store.files]
        bar = bars.step("hash", [file.stat().st_size for file in files], "files")
        found = dict(zip(files, self._run_jobs(sha256_file, files, on_progress=bar, anew=True)))
        for store in stores:
            store.publish({file.name: found[file] for file in store.files})


def _store_part(folder: Path, split: str, account: Mapping[str, Any]) -> StorePart:
    return StorePart(
        folder / f"{split}.bin",
        folder / f"{split}.npy",
        folder / f"{split}.jsonl",
        account["documents"],
        account["tokens"],
        account["provenance_bytes"],
    )


def _figures(accounts: Sequence[Mapping[str, Any]], seconds: float) -> dict[str, Any]:
    """Of one split; `seconds` are those of tokenizing both."""
    tokens = sum(account["tokens"] for account in accounts)
    return {
        "documents": sum(account["documents"] for account in accounts),
        "tokens": tokens,
        "tokens_per_s": round(tokens / max(seconds, 1e-9)),
        **{key: dict(sorted(_summed(accounts, key).items())) for key in COUNTED if key != "sources"},
    }


def _summed(accounts: Sequence[Mapping[str, Any]], key: str) -> Counter[str]:
    total = Counter[str]()
    for account in accounts:
        total.update(account[key])
    return total
