"""The token store: megatron-core's `.bin/.idx` files, a JSON manifest, and the provenance of every document.

tokens.bin / tokens.idx   all documents (BOS + tokens + EOS) in order, readable by megatron-core's IndexedDataset
documents.jsonl           document number -> paper id, source file, line, byte offset
tokenizer.model           the SentencePiece model that made the tokens
manifest.json             counts and the hash of every file; written last, so a half-built store has none
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.checkpoint.files import fsync_tree, remove_tree, sha256_bytes, sha256_file, write_json
from megabiomed.errors import DataError

VERSION = 1
MANIFEST, BIN, IDX, DOCUMENTS, TOKENIZER = (
    "manifest.json",
    "tokens.bin",
    "tokens.idx",
    "documents.jsonl",
    "tokenizer.model",
)
# Layout of megatron-core's index: magic, version, type code, sequences, documents; then lengths, pointers, documents.
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPE_CODES: dict[type[Any], int] = {np.uint16: 8, np.int32: 4}


def token_dtype(vocab_size: int) -> type[Any]:
    """The narrowest type that megatron-core uses for this vocabulary."""
    return np.uint16 if vocab_size < 65500 else np.int32


class TokenStoreWriter:
    """Builds a store in a temporary folder and publishes it whole on leaving the `with` block.

    Args:
        path: final folder; must not exist.
        tokenizer: the tokenizer.model that made the tokens.
    """

    def __init__(self, path: Path, tokenizer: Path, vocab_size: int, sources: Sequence[Mapping[str, Any]] = ()) -> None:
        self.path, self._temporary = path, path.with_name(f".{path.name}.building")
        self._tokenizer, self._vocab_size, self._sources = tokenizer, vocab_size, list(sources)
        self._dtype = token_dtype(vocab_size)
        self._lengths: list[int] = []
        remove_tree(self._temporary)
        self._temporary.mkdir(parents=True)
        self._bin = (self._temporary / BIN).open("wb")
        self._documents = (self._temporary / DOCUMENTS).open("w")

    def __enter__(self) -> TokenStoreWriter:
        return self

    def add(self, tokens: NDArray[np.integer], provenance: Mapping[str, Any]) -> None:
        """Append one document. `provenance` has at least "paper_id"."""
        self._bin.write(np.asarray(tokens, dtype=self._dtype).tobytes())
        self._lengths.append(len(tokens))
        self._documents.write(json.dumps(dict(provenance), ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bin.close()
        self._documents.close()
        if kind is not None:
            remove_tree(self._temporary)
            return
        self._write_index()
        shutil.copyfile(self._tokenizer, self._temporary / TOKENIZER)
        write_json(self._temporary / MANIFEST, self._manifest())
        fsync_tree(self._temporary)
        self._temporary.rename(self.path)

    def _write_index(self) -> None:
        lengths = np.asarray(self._lengths, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * np.dtype(self._dtype).itemsize
        pointers = np.concatenate(([0], ends[:-1])).astype(np.int64) if len(lengths) else ends
        documents = np.arange(len(lengths) + 1, dtype=np.int64)
        with (self._temporary / IDX).open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, 1, _TYPE_CODES[self._dtype], len(lengths), len(documents)))
            for part in (lengths, pointers, documents):
                file.write(part.tobytes())

    def _manifest(self) -> dict[str, Any]:
        files = {}
        for name in (BIN, IDX, DOCUMENTS, TOKENIZER):
            file = self._temporary / name
            files[name] = {"bytes": file.stat().st_size, "sha256": sha256_file(file)}
        return {
            "version": VERSION,
            "vocab_size": self._vocab_size,
            "dtype": np.dtype(self._dtype).name,
            "documents": len(self._lengths),
            "tokens": sum(self._lengths),
            "tokenizer_sha256": files[TOKENIZER]["sha256"],
            "sources": self._sources,
            "files": files,
        }


class TokenStore:
    """A memory-mapped store; opening reads the manifest and the index header only.

    Attributes:
        num_documents, num_tokens, vocab_size: counts.
        tokenizer_sha256: hash of the tokenizer that made the tokens.
        fingerprint: hash of everything that decides which tokens are where.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.num_documents = int(manifest["documents"])
        self.num_tokens = int(manifest["tokens"])
        self.vocab_size = int(manifest["vocab_size"])
        self.tokenizer_sha256 = str(manifest["tokenizer_sha256"])
        content = [manifest["files"][name]["sha256"] for name in (BIN, IDX, TOKENIZER)]
        self.fingerprint = sha256_bytes(json.dumps([manifest["version"], *content]).encode())
        self.manifest = manifest
        self._tokens: NDArray[Any] = np.memmap(path / BIN, dtype=manifest["dtype"], mode="r")

    @classmethod
    def open(cls, path: str | Path) -> TokenStore:
        """Open a store and check it against its manifest (sizes, not hashes)."""
        folder = Path(path)
        if not (folder / MANIFEST).is_file():
            state = "a folder without manifest.json" if folder.is_dir() else "nothing there"
            raise DataError(
                f"{folder} is not a token store",
                got=state,
                do="build one with `megabiomed corpus build` (its folders train/ and validation/ are stores)",
            )
        manifest = json.loads((folder / MANIFEST).read_text())
        if manifest.get("version") != VERSION:
            raise DataError(f"{folder} has another format", got=manifest.get("version"), expected=VERSION)
        for name, record in manifest["files"].items():
            size = (folder / name).stat().st_size if (folder / name).is_file() else None
            if size != record["bytes"]:
                raise DataError(
                    f"{folder / name} is not what the manifest describes",
                    got="no file" if size is None else f"{size} bytes",
                    expected=f"{record['bytes']} bytes",
                    do="copy the store again or rebuild it",
                )
        if not manifest["tokens"]:
            raise DataError(f"{folder} holds no tokens", do="rebuild the corpus with more input")
        return cls(folder, manifest)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer.model inside the store."""
        return self.path / TOKENIZER

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """Tokens [start, stop) of the stream of all documents (a view of the mapped file)."""
        return self._tokens[start:stop]

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """[documents] position one past each document's last token, ascending."""
        start = _HEADER.size + 4 * self.num_documents
        pointers = np.memmap(self.path / IDX, dtype=np.uint8, mode="r")[start : start + 8 * self.num_documents]
        begins = pointers.view(np.int64) // self._tokens.itemsize
        return np.concatenate((begins[1:], [self.num_tokens]))

    def document_of(self, position: int) -> int:
        """Number of the document that holds a stream position."""
        return int(np.searchsorted(self.document_ends, position, side="right"))

    @cached_property
    def _provenance(self) -> list[dict[str, Any]]:
        with (self.path / DOCUMENTS).open() as file:
            return [json.loads(line) for line in file]

    def provenance(self, document: int) -> dict[str, Any]:
        """Where a document came from: paper_id, source, line, offset."""
        return self._provenance[document]

    def paper_id(self, document: int) -> str:
        """The paper of a document."""
        return str(self._provenance[document]["paper_id"])
