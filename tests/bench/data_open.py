"""Opening a store of 26 billion tokens with a sparse token file: time and memory to the first batch, in its own process.

Usage: python -m bench.data_open make FOLDER TOKENIZER DOCUMENTS | own FOLDER PACKING | megatron FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from megabiomed.data import store as format_
from megabiomed.data.store import TokenStore
from megabiomed.data.store_writer import TokenStoreWriter

TOKENS = 26_000_000_000
SAMPLE = 9_000_000
"""Global sample to begin at: far from the first, as a resume is."""


def make(folder: Path, tokenizer: Path, documents: int) -> None:
    """A store of TOKENS tokens in `documents` documents of log-normal lengths; token and provenance files are sparse."""
    drawn = np.random.default_rng(0).lognormal(0, 0.6, documents)
    lengths = np.maximum(2, drawn * (TOKENS / drawn.sum())).astype(np.int64)
    lengths[-1] += TOKENS - lengths.sum()
    hashed, format_.sha256_file = format_.sha256_file, lambda _: "0" * 64  # hashing 52 GB of zeros measures nothing
    try:
        with TokenStoreWriter(folder, tokenizer, 32000) as writer:
            writer._lengths.frombytes(lengths.astype(np.int32).tobytes())
            writer._bin.truncate(2 * TOKENS)
            writer._documents.truncate(documents)
    finally:
        format_.sha256_file = hashed


def measure(what: str, folder: Path, packing: str) -> dict[str, object]:
    """Seconds to open, to the first batch from SAMPLE on, and the memory of this process above its start."""
    if what == "own":
        from megabiomed.config import DataConfig
        from megabiomed.data.loader import TrainLoader

        before = _resident()
        started = time.monotonic()
        cpu = time.process_time()
        opened = TokenStore.open(folder)
        open_s = time.monotonic() - started
        data = DataConfig(seq_length=2048, global_batch_size=192, packing=packing)  # type: ignore[arg-type]
        loader = TrainLoader([opened], [1.0], data, seed=1, first_sample=SAMPLE)
        loader.batch_at(SAMPLE)
        filled = round(TOKENS / (2048 * loader.samples_per_epoch), 5)
    else:
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        from bench.data_load import gpt_dataset

        before = _resident()
        started = time.monotonic()
        cpu = time.process_time()
        IndexedDataset(str(folder / "tokens"))
        open_s = time.monotonic() - started
        dataset = gpt_dataset(folder, folder.parent / f"cache-{time.time_ns()}", False, TOKENS // 2048 - 1)
        for number in range(SAMPLE, SAMPLE + 192):
            dataset[number]
        filled = None
    first, used = time.monotonic() - started, time.process_time() - cpu
    return {
        "open s": round(open_s, 3),
        "first batch s": round(first, 2),
        "CPU s": round(used, 2),
        "memory MiB": round(_resident() - before),
        "tokens / places": filled,
    }


def _resident() -> float:
    """Peak resident memory of this process in MiB; getrusage would count the parent's, from before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    verb, where = sys.argv[1], Path(sys.argv[2])
    if verb == "make":
        make(where, Path(sys.argv[3]), int(sys.argv[4]))
    else:
        print(json.dumps(measure(verb, where, sys.argv[3] if len(sys.argv) > 3 else "contiguous")))
