"""The two parallel steps of a build: a source file becomes cleaned parts, a cleaned part becomes tokens.

A step writes its marker last, after its files are durable. After a kill, work with a marker is complete and is not repeated;
work without one starts from its beginning, so nothing is counted twice or only in part.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.decontaminate import Contamination, read_items
from megabiomed.corpus.dedup import KEY, SHARED_IDS, key_of, shared_key, split_hash, text_key
from megabiomed.corpus.licences import kind_of_licence
from megabiomed.corpus.near import signature
from megabiomed.corpus.pool import count_work
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Paper, Rejects
from megabiomed.corpus.unpack import unpacking
from megabiomed.data.store import token_dtype
from megabiomed.ground.files import fsync_tree, read_json, remove_tree, sha256_file, write_json
from megabiomed.tokenizer.document_encoder import DocumentEncoder
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

DONE = "done.json"
SPLITS = ("train", "validation")
"""A document's split is its index here."""
# A kill costs at most one part of work, and each part is several files: smaller parts would make millions of files out of a
# full S2ORC, which the file systems of clusters handle badly.
PART_CHARACTERS = 64_000_000
"""Characters of a cleaned part: the unit of tokenizing and of its resume."""
BATCH = 64
"""Documents that are encoded together."""
_NOTHING = {"documents": 0, "tokens": 0}


@dataclass(frozen=True)
class CleanJob:
    """One source file to read and clean into `folder`."""

    path: Path
    folder: Path
    layout: str
    pdf_parses: Path | None
    rules: CleanRules
    evaluation: tuple[Path, ...] = ()
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


@dataclass
class _Part:
    file: IO[str]
    keys: list[Any] = field(default_factory=list)
    signatures: list[Any] = field(default_factory=list)
    characters: int = 0


def clean_shard(job: CleanJob) -> dict[str, Any]:
    """Clean a file unless that is done already, and return its account: parts, counts, rejects, sha256."""
    marker = job.folder / DONE
    if marker.is_file():
        return dict(read_json(marker))
    remove_tree(job.folder)
    job.folder.mkdir(parents=True)
    counts: Counter[str] = Counter()
    rejects = Rejects()
    tainted: list[dict[str, Any]] = []
    with unpacking(job.rules):
        parts = _write_parts(job, _cleaned(job, counts, rejects), tainted)
    account = {
        "file": job.path.name,
        "sha256": sha256_file(job.path),
        "parts": parts,
        "tainted": tainted,
        "counts": dict(counts),
        "rejects": {"counts": dict(rejects.counts), "samples": rejects.samples},
    }
    # The marker vouches for these files, so they are durable before it.
    fsync_tree(job.folder)
    write_json(marker, account)
    return account


def _cleaned(job: CleanJob, counts: Counter[str], rejects: Rejects) -> Iterator[tuple[Paper, str]]:
    for paper in read_papers(job.path, job.layout, rejects, job.pdf_parses):
        counts["papers: read"] += 1
        count_work(1)
        text = clean(paper, job.rules, counts)
        if text is not None:
            yield paper, text


def _write_parts(job: CleanJob, papers: Iterator[tuple[Paper, str]], tainted: list[dict[str, Any]]) -> list[str]:
    names: list[str] = []
    contamination = Contamination([item for path in job.evaluation for item in read_items(path)])
    part: _Part | None = None
    # Keys are kept apart from the text: which papers stay is decided from them alone, for the corpus as a whole.
    for paper, text in papers:
        if part is None or part.characters >= PART_CHARACTERS:
            _close(job.folder, names, part)
            names.append(f"part-{len(names):05d}")
            part = _Part((job.folder / f"{names[-1]}.jsonl").open("w", encoding="utf-8"))
        # Travels with the document to the store, where `data trace` finds the paper in its file again.
        origin = {"paper_id": paper.paper_id, "source": paper.source, "line": paper.line, "offset": paper.offset}
        more: dict[str, Any] = {"year": paper.year} if paper.year is not None else {}
        more |= {"fields": paper.fields} if paper.fields else {}
        more |= {"licence": paper.licence} if paper.licence else {}
        row = {"text": text, **origin, "ids": paper.ids, **more}
        part.file.write(json.dumps(row, ensure_ascii=False) + "\n")
        items = contamination.find(text) if job.evaluation else []
        if items:
            tainted.append({**origin, "items": items})
        shared = (shared_key(kind, paper.ids.get(kind)) for kind in SHARED_IDS)
        keys = (key_of(paper.paper_id), *shared, text_key(text))
        part.keys.append((*keys, split_hash(paper.paper_id), bool(items), paper.is_abstract))
        if job.near_dedup:
            part.signatures.append(signature(text))
        part.characters += len(text)
    _close(job.folder, names, part)
    return names


def _close(folder: Path, names: list[str], part: _Part | None) -> None:
    if part is not None:
        part.file.close()
        np.save(folder / f"{names[-1]}.keys.npy", np.array(part.keys, dtype=KEY))
        if part.signatures:
            np.save(folder / f"{names[-1]}.minhash.npy", np.stack(part.signatures))


def text_file(part: Path) -> Path:
    """The documents of a cleaned part."""
    return part.with_name(f"{part.name}.jsonl")


def read_part(part: Path) -> Iterator[dict[str, Any]]:
    """The documents of a cleaned part."""
    with part.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def tokenize_part(job: TokenJob) -> dict[str, Any]:
    """Tokenize a part unless that is done already.

    Returns:
        documents, tokens and documents by source and by licence of each split, and under "refused" how many texts
        GigaToken refused.
    """
    marker = job.folder / DONE
    if marker.is_file():
        return dict(read_json(marker))
    remove_tree(job.folder)
    job.folder.mkdir(parents=True)
    tokenizer, encoder = _encoder(job.tokenizer, sha256_file(job.tokenizer), job.converted)
    split = np.load(job.split)
    rows = iter(zip(split.tolist(), read_part(job.part)))
    account: dict[str, Any] = {name: {**_NOTHING, "sources": {}, "licences": {}} for name in SPLITS}
    dtype = token_dtype(tokenizer.vocab_size)
    with _SplitFiles(job.folder, np.dtype(dtype).itemsize) as files:
        while batch := list(islice((row for row in rows if row[0] >= 0), BATCH)):
            # The text leaves the row here; what is left of it is the provenance.
            encoded = encoder.encode([document.pop("text") for _, document in batch], dtype)
            for (number, document), ids in zip(batch, encoded):
                name = SPLITS[number]
                tokens = files.add(name, ids, document)
                account[name]["documents"] += 1
                account[name]["tokens"] += tokens
                count_work(tokens)
                for key, found in _counted(document).items():
                    account[name][key][found] = account[name][key].get(found, 0) + 1
    account["refused"] = encoder.taken_refusals()
    fsync_tree(job.folder)
    write_json(marker, account)
    return account


def _counted(document: dict[str, Any]) -> dict[str, str]:
    """By what the documents of a split are counted."""
    return {"sources": document["source"], "licences": kind_of_licence(document.get("licence", ""))}


@lru_cache(maxsize=1)
def _encoder(path: Path, _sha256: str, converted: Path | None) -> tuple[Tokenizer, DocumentEncoder]:
    """One encoder for all parts of a worker, because it remembers the words that it has cut."""
    # The hash is part of the key: a file that was replaced meanwhile is opened again.
    tokenizer = open_tokenizer(path)
    return tokenizer, DocumentEncoder(tokenizer, None if converted is None else converted.read_text(encoding="utf-8"))


class _SplitFiles:
    """tokens, lengths and provenance of each split of a part."""

    def __init__(self, folder: Path, itemsize: int) -> None:
        self._folder, self._itemsize = folder, itemsize
        self._lengths: dict[str, list[int]] = {name: [] for name in SPLITS}

    def __enter__(self) -> _SplitFiles:
        self._bins = {name: (self._folder / f"{name}.bin").open("wb") for name in self._lengths}
        self._rows = {name: (self._folder / f"{name}.jsonl").open("w", encoding="utf-8") for name in self._lengths}
        return self

    def add(self, name: str, ids: bytes, document: dict[str, Any]) -> int:
        """Add a document and return the number of its tokens."""
        self._bins[name].write(ids)
        self._rows[name].write(json.dumps(document, ensure_ascii=False) + "\n")
        self._lengths[name].append(len(ids) // self._itemsize)
        return self._lengths[name][-1]

    def __exit__(self, *_failure: object) -> None:
        for file in (*self._bins.values(), *self._rows.values()):
            file.close()
        for name, lengths in self._lengths.items():
            np.save(self._folder / f"{name}.npy", np.array(lengths, dtype=np.int32))
