"""The token store: megatron-core's `.bin/.idx` files, a JSON manifest, and the provenance of every document.

tokens.bin / tokens.idx   all documents ([BOS] + tokens + EOS) in order, readable by megatron-core's IndexedDataset
documents.jsonl           document number -> paper id, source file, line, byte offset
tokenizer.model or .json  the tokenizer that made the tokens, and the files that belong to it
manifest.json             counts and the hash of every file; written last, so a half-built store has none
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Mapping
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.ground.damage import reading
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import (
    sha256_bytes,
    sha256_file,
)
from megabiomed.ground.json_lines import parsed_object
from megabiomed.ground.staged import local
from megabiomed.tokenizer.files import companions, fingerprint, name_among

_LOG = logging.getLogger(__name__)
VERSION = 1
MANIFEST = "manifest.json"
BIN = "tokens.bin"
IDX = "tokens.idx"
DOCUMENTS = "documents.jsonl"
# Layout of megatron-core's index: magic, version, type code, sequences, documents; then lengths, pointers, documents.
_MAGIC = b"MMIDIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_TYPE_CODES: dict[type[Any], int] = {np.uint16: 8, np.int32: 4}


def token_dtype(vocab_size: int) -> type[Any]:
    """The narrowest type that megatron-core uses for this vocabulary."""
    return np.uint16 if vocab_size < 65500 else np.int32


def index_header(dtype: type[Any], documents: int) -> bytes:
    """How an index begins: lengths, pointers and document numbers follow."""
    # megatron-core allows several sequences per document; here each document is one sequence.
    return _HEADER.pack(_MAGIC, 1, _TYPE_CODES[dtype], documents, documents + 1)


def manifest_of(
    tokenizer: Path, vocab_size: int, counts: Mapping[str, int], more: Mapping[str, Any], hashes: Mapping[str, str]
) -> dict[str, Any]:
    """The manifest of a store whose files are written.

    Args:
        tokenizer: its file in the store's folder.
        counts: `documents` and `tokens`.
        more: what else it says.
        hashes: sha256 of BIN, IDX and DOCUMENTS.
    """
    own = {file.name: sha256_file(file) for file in (tokenizer, *companions(tokenizer))}
    files = {
        name: {"bytes": (tokenizer.parent / name).stat().st_size, "sha256": sha256}
        for name, sha256 in {**hashes, **own}.items()
    }
    return {
        "version": VERSION,
        "vocab_size": vocab_size,
        "dtype": np.dtype(token_dtype(vocab_size)).name,
        **counts,
        "tokenizer_sha256": fingerprint(tokenizer),
        **more,
        "files": files,
    }


class TokenStore:
    """A memory-mapped store; opening reads the manifest and the index header only.

    Attributes:
        num_documents, num_tokens, vocab_size: counts.
        tokenizer_sha256: names the tokenizer that made the tokens; see `Tokenizer.sha256`.
        fingerprint: hash of everything that decides which tokens are where.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._files = local(path)
        self.num_documents = int(manifest["documents"])
        self.num_tokens = int(manifest["tokens"])
        self.vocab_size = int(manifest["vocab_size"])
        self.tokenizer_sha256 = str(manifest["tokenizer_sha256"])
        # Not of the provenance: other paper ids change no token.
        content = [manifest["files"][name]["sha256"] for name in (BIN, IDX, _tokenizer_of(manifest))]
        self.fingerprint = sha256_bytes(json.dumps([manifest["version"], *content]).encode())
        self.manifest = manifest
        # A view as a plain array: slices of a memmap cost several times as much.
        self._tokens: NDArray[Any] = np.asarray(np.memmap(self._files / BIN, dtype=manifest["dtype"], mode="r"))

    @classmethod
    def open(cls, path: str | Path) -> TokenStore:
        """Open a store and check it against its manifest (sizes and the index header, not hashes).

        Raises:
            DataError: there is no store, or one that is unfinished, damaged, empty or of another format.
        """
        # Every rank opens every store at every start: hashing them would read the corpus once per rank.
        folder = local(Path(path))
        if not (folder / MANIFEST).is_file():
            state = "a folder without manifest.json" if folder.is_dir() else "no such folder"
            raise DataError(
                f"{folder} is not a token store",
                got=state,
                do="build one with `megabiomed corpus build` (its folders train/ and validation/ are stores)",
            )
        with reading(folder / MANIFEST, "copy the store again or rebuild it"):
            manifest = json.loads((folder / MANIFEST).read_bytes())
            if manifest["version"] != VERSION:
                raise DataError(f"{folder} has another format", got=manifest["version"], expected=VERSION)
            _check_files(folder, manifest)
            return cls(Path(path), manifest)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer inside the store."""
        return self.path / _tokenizer_of(self.manifest)

    def tokens(self, start: int, stop: int) -> NDArray[np.integer]:
        """Tokens [start, stop) of the stream of all documents (a view of the mapped file).

        Raises:
            DataError: one of them is no piece of the store's tokenizer: an embedding would fail, or read another row.
        """
        found = self._tokens[start:stop]
        if not self._in_vocabulary(found) and self._files != self.path:
            _LOG.warning("%s is damaged; from now on %s is read", self._files / BIN, self.path / BIN)
            self._files = self.path
            self._tokens = np.asarray(np.memmap(self._files / BIN, dtype=self.manifest["dtype"], mode="r"))
            found = self._tokens[start:stop]
        if not self._in_vocabulary(found):
            raise DataError(
                f"{self.path / BIN} is damaged", got=f"token {found.max()} between {start} and {stop}",
                expected=f"tokens below {self.vocab_size}", do="copy the store again or rebuild it",
            )  # fmt: skip
        return found

    def _in_vocabulary(self, ids: NDArray[np.integer]) -> bool:
        return not ids.size or 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size

    @cached_property
    def document_ends(self) -> NDArray[np.int64]:
        """[documents] position one past each document's last token, ascending."""
        start = _HEADER.size + 4 * self.num_documents
        pointers = np.memmap(self._files / IDX, dtype=np.uint8, mode="r")[start : start + 8 * self.num_documents]
        begins = pointers.view(np.int64) // self._tokens.itemsize
        return np.concatenate((begins[1:], [self.num_tokens]))

    def document_of(self, position: int) -> int:
        """Number of the document that holds a stream position."""
        if not 0 <= position < self.num_tokens:
            raise IndexError(f"position {position} of a stream of {self.num_tokens} tokens")
        return int(np.searchsorted(self.document_ends, position, side="right"))

    def document_bounds(self, document: int) -> tuple[int, int]:
        """[low, high) of a document in the stream."""
        ends = self.document_ends
        return int(ends[document - 1]) if document else 0, int(ends[document])

    def indexed_bounds(self, document: int) -> tuple[int, int]:
        """As `document_bounds`, from the index on disk: for a few documents, without the ends of all in memory."""
        start = _HEADER.size + 4 * self.num_documents + 8 * document
        with (self._files / IDX).open("rb") as file:
            file.seek(start)
            low, high = struct.unpack("<2q", file.read(16))
        last = document == self.num_documents - 1  # document numbers follow the last pointer
        return low // self._tokens.itemsize, self.num_tokens if last else high // self._tokens.itemsize

    @cached_property
    def _line_starts(self) -> NDArray[np.int64]:
        with (self._files / DOCUMENTS).open("rb") as file:
            return np.fromiter(accumulate(map(len, file), initial=0), np.int64, self.num_documents + 1)

    def provenance(self, document: int) -> dict[str, Any]:
        """Where a document came from: paper_id, source, line, offset. Takes eight bytes of memory per document."""
        if not 0 <= document < self.num_documents:
            raise IndexError(f"document {document} of {self.num_documents}")
        with (self._files / DOCUMENTS).open("rb") as file:
            file.seek(int(self._line_starts[document]))
            line = file.readline()
        return origin_of(line, self.path, document)

    def paper_id(self, document: int) -> str:
        """The paper of a document."""
        return str(self.provenance(document)["paper_id"])


def origin_of(line: bytes, store: Path, document: int) -> dict[str, Any]:
    """What a line of DOCUMENTS says of a document.

    Raises:
        DataError: no object with the id of a paper.
    """
    origin = parsed_object(line)
    if origin is None or not isinstance(origin.get("paper_id"), str | int):
        raise DataError(f"{store / DOCUMENTS} is damaged at document {document}", got=line[:80], do="rebuild the store")
    return origin


def _tokenizer_of(manifest: dict[str, Any]) -> str:
    name = name_among(manifest["files"])
    if name is None:
        raise KeyError("files: no tokenizer")
    return name


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    for name in {BIN: None, IDX: None, DOCUMENTS: None, _tokenizer_of(manifest): None, **manifest["files"]}:
        expected = manifest["files"][name]["bytes"]
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != expected:
            raise DataError(
                f"{folder / name} is not what the manifest describes",
                got="no file" if size is None else f"{size} bytes",
                expected=f"{expected} bytes",
                do="copy the store again or rebuild it",
            )
    if not manifest["tokens"]:
        raise DataError(
            f"{folder} has no tokens", do="rebuild the corpus with more input or a larger --validation-fraction"
        )
    with (folder / IDX).open("rb") as file:
        header = _HEADER.unpack(file.read(_HEADER.size))
    dtype, documents = np.dtype(manifest["dtype"]), manifest["documents"]
    described = (_MAGIC, 1, _TYPE_CODES.get(dtype.type), documents, documents + 1)
    if header != described or manifest["files"][BIN]["bytes"] != manifest["tokens"] * dtype.itemsize:
        raise DataError(
            f"{folder / IDX} is not what the manifest describes",
            got=f"{header[3]} documents of type code {header[2]}",
            expected=f"{documents} documents, {manifest['tokens']} tokens of {dtype.name}",
            do="rebuild the store",
        )
