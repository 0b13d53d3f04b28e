"""Readers of `make bench-data`: one store in batches of windows, ours and megatron-core's GPTDataset in a DataLoader."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megabiomed.config import DataConfig
from megabiomed.data.loader import TrainLoader
from megabiomed.data.store import TokenStore
from megabiomed.data.windows import read, windows_of

SEQ = 2048
BATCH = 64
MICRO = 4


def own(store: Path, packing: str) -> Iterator[int]:
    """Tokens of each step of ours, prepared in line; documents kept apart by their bounds."""
    data = DataConfig(
        seq_length=SEQ, global_batch_size=BATCH, micro_batch_size=MICRO, prefetch=0, packing=packing  # type: ignore[arg-type]
    )  # fmt: skip
    for step in TrainLoader([TokenStore.open(store)], [1.0], data, seed=1):
        yield sum(len(micro.tokens) for micro in step.micro_batches)


class _Tokenizer:
    """What GPTDataset asks of a tokenizer."""

    eod = 2
    pad = -1
    vocab_size = 32000
    unique_identifiers: dict[str, str] = {"class": "bench"}  # noqa: RUF012


def gpt_dataset(store: Path, cache: Path, apart: bool, samples: int) -> Any:
    """A GPTDataset over a store; `apart` restarts positions and masks at documents (a dense mask), as ours does by bounds."""
    import numpy as np
    import torch
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDataset
    from megatron.core.datasets.utils import Split

    if not torch.distributed.is_initialized():  # GPTDataset's cache asks for a rank
        torch.distributed.init_process_group("gloo", init_method=f"file://{cache}.rendezvous", rank=0, world_size=1)
    config = GPTDatasetConfig(
        random_seed=1, sequence_length=SEQ, blend=([str(store / "tokens")], None), split="1,0,0",
        path_to_cache=str(cache), tokenizer=_Tokenizer(), reset_position_ids=apart, reset_attention_mask=apart,
        eod_mask_loss=apart, create_attention_mask=apart,
    )  # fmt: skip
    indexed = IndexedDataset(str(store / "tokens"))
    documents = np.arange(len(indexed.document_indices) - 1, dtype=np.int32)
    return GPTDataset(indexed, str(store / "tokens"), documents, samples, Split.train, config)


def peer(store: Path, cache: Path, apart: bool) -> Iterator[int]:
    """Tokens of each micro-batch of GPTDataset under a DataLoader that reads in this process."""
    from torch.utils.data import DataLoader

    dataset = gpt_dataset(store, cache, apart, 4000)
    for batch in DataLoader(dataset, batch_size=MICRO, num_workers=0):
        yield batch["tokens"].numel()


def rate(stream: Callable[[], Iterator[int]], seconds: float) -> float:
    """Tokens a CPU second, after a first batch."""
    batches, tokens = stream(), 0
    next(batches)
    start = time.process_time()
    while time.process_time() - start < seconds:
        found = next(batches, None)
        if found is None:
            batches = stream()
            found = next(batches)
        tokens += found
    return tokens / (time.process_time() - start)


def packed(store: TokenStore, packing: str) -> dict[str, Any]:
    """Share of the computed tokens that train, and of the documents that are cut although they fit into a window."""
    windows = windows_of(store, SEQ, packing)
    useful, parts = 0, dict.fromkeys(range(store.num_documents), 0)
    for number in range(len(windows)):
        useful += int((read(windows, number, SEQ).labels >= 0).sum())
        for piece in windows.pieces(number):
            parts[piece.document] += 1
    lengths = [high - low for low, high in map(store.document_bounds, range(store.num_documents))]
    short = [document for document, length in enumerate(lengths) if length <= SEQ]
    cut = sum(parts[document] > 1 for document in short)
    return {
        "candidate": f"megabiomed, {packing}",
        "windows": len(windows),
        "useful / computed": round(useful / (SEQ * len(windows)), 4),
        "cut though they fit": f"{cut} of {len(short)}",
    }


def padded(store: TokenStore) -> dict[str, Any]:
    """One document a row, cut at SEQ into rows that are padded: what training without packing computes."""
    lengths = [high - low for low, high in map(store.document_bounds, range(store.num_documents))]
    rows = sum(-(-length // SEQ) for length in lengths)
    useful = round(sum(length - 1 for length in lengths) / (SEQ * rows), 4)
    return {"candidate": "one document a row, padded", "windows": rows, "useful / computed": useful,
            "cut though they fit": "0"}  # fmt: skip
