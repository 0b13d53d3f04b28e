"""Peers of `make bench-data` that were written for speed: Megatron-LM's tool on GigaToken, and datatrove's own pipeline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np

_NEEDED = {"fast": "awkward", "trove": "orjson"}
"""Candidate -> the package that the peer needs besides those of megabiomed."""


def missing() -> dict[str, str]:
    """The candidates that cannot run here, and why."""
    absent = {name: package for name, package in _NEEDED.items() if find_spec(package) is None}
    return {name: f"pip install {package}" for name, package in absent.items()}


def megatron_fast(texts: Path, converted: Path, vocab_size: int, end: int, folder: Path) -> int:
    """The steps of Megatron-LM's tools/preprocess_data_fast.py (commit d98e8a6) on one core.

    GigaToken reads the JSON lines and encodes them, `IndexedDatasetBuilder.add_documents` appends the end of document and
    writes. megatron-core 0.16.1 has no `add_documents` yet, so its lines stand here; ids and index are written by the package.
    """
    import awkward
    import gigatoken
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    tokenizer = gigatoken.Tokenizer.from_json(converted.read_text(encoding="utf-8"))
    found = tokenizer.encode_files(gigatoken.JsonlFileSource([str(texts)], field="text"), parallel=False)
    dtype = DType.optimal_dtype(vocab_size)
    builder = IndexedDatasetBuilder(str(folder / "text.bin"), dtype=dtype)
    lengths = np.asarray(awkward.num(found, axis=1))
    flat = np.asarray(awkward.flatten(found), dtype=dtype)
    flat = np.insert(flat, np.cumsum(lengths), end).astype(dtype, copy=False)
    builder.data_file.write(flat.tobytes(order="C"))
    builder.sequence_lengths.extend((lengths + 1).tolist())
    builder.document_indices.extend(np.arange(1, len(lengths) + 1).tolist())
    builder.finalize(str(folder / "text.idx"))
    return len(flat)


def datatrove(texts: Path, tokenizer: Path, end: str, folder: Path) -> int:
    """datatrove's JsonlReader and DocumentTokenizer, without shuffling, in this process.

    Args:
        tokenizer: a tokenizer.json.
    """
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from loguru import logger

    logger.disable("datatrove")
    reader = JsonlReader(str(texts.parent), glob_pattern=texts.name)
    writer = DocumentTokenizer(str(folder), str(tokenizer), eos_token=end, shuffle_documents=False)
    # Other fields of a line are kept as metadata, as its pipelines do.
    writer.run(reader.run())
    return sum(file.stat().st_size for file in folder.glob("*.ds")) // writer.token_size
