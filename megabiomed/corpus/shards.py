"""The two parallel steps of a build: a source file becomes cleaned parts, a cleaned part becomes tokens.

A step writes its marker last, after its files are durable. After a kill, work with a marker is complete and is not repeated;
work without one starts from its beginning, so nothing is counted twice or only in part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.cleaned_parts import PartWriter, origin_file, read_kinds, read_texts, row_file
from megabiomed.corpus.decontaminate import Contamination, read_items
from megabiomed.corpus.entries import shard_folder
from megabiomed.corpus.licences import kind_of_licence
from megabiomed.corpus.pool import count_work
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.corpus.unpack import is_packed, unpacking
from megabiomed.data.store import token_dtype
from megabiomed.ground.files import fsync_tree, read_json, remove_tree, sha256_file, write_json
from megabiomed.tokenizer.document_encoder import DocumentEncoder
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

DONE = "done.json"
SPLITS = ("train", "validation")
"""A document's split is its index here."""
BATCH = 64
"""Documents that are encoded together."""
COUNTED = ("sources", "licences", "years", "fields of study")


@dataclass(frozen=True)
class CleanJob:
    """One source file to read and clean.

    Attributes:
        clean: folder of the shards.
        shard: number of the file.
        exact_dedup, near_dedup: whether equal and similar texts will be looked for.
    """

    path: Path
    clean: Path
    shard: int
    layout: str
    pdf_parses: Path | None
    rules: CleanRules
    evaluation: tuple[Path, ...] = ()
    exact_dedup: bool = True
    near_dedup: bool = False


@dataclass(frozen=True)
class TokenJob:
    """One cleaned part: the documents whose `split` is >= 0 go to train (0) or validation (1).

    Attributes:
        converted: the tokenizer as GigaToken reads it; None where the tokenizer itself encodes.
    """

    part: Path
    split: Path
    folder: Path
    tokenizer: Path
    converted: Path | None


def clean_shard(job: CleanJob) -> dict[str, Any]:
    """Clean a file unless that is done already, and return its account: parts, entries of keys, counts, rejects, sha256."""
    folder = shard_folder(job.clean, job.shard)
    marker = folder / DONE
    if marker.is_file():
        return dict(read_json(marker))
    remove_tree(folder)
    folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    rejects = Rejects()
    items = [item for path in job.evaluation for item in read_items(path)]
    written = PartWriter(job.clean, job.shard, Contamination(items) if items else None, job.exact_dedup, job.near_dedup)
    with unpacking(job.rules, counted=job.path), closing(written):
        for paper, text in _cleaned(job, counts, rejects):
            written.add(paper, text)
    account = {
        "file": job.path.name,
        "sha256": sha256_file(job.path),
        "parts": written.names,
        "entry_files": written.entries.files,
        "entries": written.entries.entries,
        "tainted": written.tainted,
        "counts": dict(counts),
        "rejects": {"counts": dict(rejects.counts), "samples": rejects.samples},
    }
    # The marker vouches for these files, so they are durable before it.
    fsync_tree(folder)
    write_json(marker, account)
    return account


def _cleaned(job: CleanJob, counts: Counter[str], rejects: Rejects) -> Iterator[tuple[Paper, str]]:
    # Offsets are bytes of the unpacked file: of a packed one the reader counts the bytes.
    plain, before = not is_packed(job.path), 0
    for paper in read_papers(job.path, job.layout, rejects, job.pdf_parses):
        counts["papers: read"] += 1
        count_work(1, paper.offset - before if plain else 0)
        before = paper.offset
        text = clean(paper, job.rules, counts)
        if text is not None:
            yield paper, text


def tokenize_part(job: TokenJob) -> dict[str, Any]:
    """Tokenize a part unless that is done already.

    Returns:
        of each split documents, tokens, bytes of provenance, and documents by source, licence, year and field of study;
        under "refused" how many texts GigaToken refused.
    """
    marker = job.folder / DONE
    if marker.is_file():
        return dict(read_json(marker))
    remove_tree(job.folder)
    job.folder.mkdir(parents=True)
    tokenizer, encoder = _encoder(job.tokenizer, sha256_file(job.tokenizer), job.converted)
    split, dtype = np.load(job.split), token_dtype(tokenizer.vocab_size)
    lengths = [_encode_texts(job, number, split, encoder, dtype) for number in range(len(SPLITS))]
    _copy_origins(job, split)
    account: dict[str, Any] = {}
    for number, name in enumerate(SPLITS):
        account[name] = {
            "documents": len(lengths[number]),
            "tokens": int(lengths[number].sum()),
            **_counted_kinds(job.part, split == number),
            "provenance_bytes": (job.folder / f"{name}.jsonl").stat().st_size,
        }
    account["refused"] = encoder.taken_refusals()
    fsync_tree(job.folder)
    write_json(marker, account)
    return account


def _encode_texts(
    job: TokenJob, number: int, split: NDArray[np.int8], encoder: DocumentEncoder, dtype: type[np.integer[Any]]
) -> NDArray[np.int32]:
    """Write the tokens of one split of a part; returns how many each document has."""
    name, itemsize = SPLITS[number], np.dtype(dtype).itemsize
    texts, lengths = read_texts(job.part, (split == number).tolist()), list[int]()
    with (job.folder / f"{name}.bin").open("wb") as file:
        while batch := list(islice(texts, BATCH)):
            encoded = encoder.encode(batch, dtype)
            file.write(b"".join(encoded))
            lengths += [len(ids) // itemsize for ids in encoded]
            count_work(sum(lengths[-len(encoded) :]), sum(map(len, batch)))
    found = np.array(lengths, dtype=np.int32)
    np.save(job.folder / f"{name}.npy", found)
    return found


def _copy_origins(job: TokenJob, split: NDArray[np.int8]) -> None:
    """Deal the lines of provenance out to the splits."""
    lengths = np.load(row_file(job.part))["origin"].tolist()
    with ExitStack() as stack:
        read = stack.enter_context(origin_file(job.part).open("rb"))
        files = [stack.enter_context((job.folder / f"{name}.jsonl").open("wb")) for name in SPLITS]
        for number, length in zip(split.tolist(), lengths, strict=True):
            line = read.read(length)
            if number >= 0:
                files[number].write(line)


def _counted_kinds(part: Path, wanted: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """How many of the documents that are wanted are of each source, licence, year and field of study."""
    kinds = read_kinds(part)
    amounts = np.bincount(np.load(row_file(part))["kind"][wanted], minlength=len(kinds)).tolist()
    found: dict[str, Counter[str]] = {key: Counter() for key in COUNTED}
    for (source, licence, year, fields), amount in zip(kinds, amounts):
        if amount:
            origin = {"source": source, "licence": licence, "year": year, "fields": fields}
            for key, values in counted(origin).items():
                for value in values:
                    found[key][value] += amount
    return {key: dict(values) for key, values in found.items()}


def counted(origin: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """By what the documents of a split are counted, from a document's provenance."""
    return {
        "sources": [str(origin.get("source"))],
        "licences": [kind_of_licence(str(origin.get("licence") or ""))],
        "years": [str(origin.get("year") or "unknown")],
        "fields of study": [str(field) for field in origin.get("fields") or ("unknown",)],
    }


@lru_cache(maxsize=1)
def _encoder(path: Path, _sha256: str, converted: Path | None) -> tuple[Tokenizer, DocumentEncoder]:
    """One encoder for all parts of a worker, because it remembers the words that it has cut."""
    # The hash is part of the key: a file that was replaced meanwhile is opened again.
    tokenizer = open_tokenizer(path)
    return tokenizer, DocumentEncoder(tokenizer, None if converted is None else converted.read_text(encoding="utf-8"))
