"""Writes a token store document by document, in one process; `store_parts` joins parts that many processes wrote."""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from megabiomed.data.store import BIN, DOCUMENTS, IDX, MANIFEST, index_header, manifest_of, token_dtype
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import discard_tree, fsync_directory, fsync_tree, remove_tree, sha256_file, write_json
from megabiomed.tokenizer.files import copy_into


class TokenStoreWriter:
    """Builds a store in a temporary folder and publishes it by one rename on leaving the `with` block.

    Args:
        path: final folder; must not exist.
        tokenizer: the file of the tokenizer that made the tokens.
        vocab_size: every token id is below it.
        sources: one object per source file, stored in the manifest unchanged.
        bos_id, eos_id: ids that begin (None: none does) and end each document, for the manifest.
        encoder: which library encoded the documents, for the manifest alone: no hash depends on it.

    Raises:
        DataError: `path` exists.
    """

    def __init__(
        self,
        path: Path,
        tokenizer: Path,
        vocab_size: int,
        sources: Sequence[Mapping[str, Any]] = (),
        bos_id: int | None = 1,
        eos_id: int = 2,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        if path.exists():
            raise DataError(f"{path} exists already", do="remove it or choose another folder")
        self.path, self._temporary = path, path.with_name(f".{path.name}.building")
        self._tokenizer, self._vocab_size = tokenizer, vocab_size
        self._identity = {"bos_id": bos_id, "eos_id": eos_id, "sources": [dict(source) for source in sources]}
        self._encoder = {} if encoder is None else {"encoder": dict(encoder)}
        self._dtype = token_dtype(vocab_size)
        # Four bytes per document in memory; a list of Python integers takes nine times as much.
        self._lengths = array("i")
        remove_tree(self._temporary)
        self._temporary.mkdir(parents=True)
        self._bin = (self._temporary / BIN).open("wb")
        self._documents = (self._temporary / DOCUMENTS).open("wb")

    def __enter__(self) -> TokenStoreWriter:
        return self

    def add(self, tokens: NDArray[np.integer], provenance: Mapping[str, Any]) -> None:
        """Append one document. `provenance` has at least "paper_id".

        Raises:
            DataError: no tokens, or an id outside of the vocabulary, which a narrow type would wrap around silently.
        """
        ids = np.asarray(tokens)
        if not len(ids) or ids.min() < 0 or ids.max() >= self._vocab_size:
            raise DataError(
                f"document {provenance.get('paper_id')} does not fit the vocabulary",
                got=f"ids {ids.min()} to {ids.max()}" if len(ids) else "no tokens",
                expected=f"ids 0 to {self._vocab_size - 1}",
                do="tokenize with the tokenizer that the store is written for",
            )
        self._bin.write(ids.astype(self._dtype).tobytes())
        self._lengths.append(len(ids))
        self._documents.write((json.dumps(dict(provenance), ensure_ascii=False) + "\n").encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._bin.close()
            self._documents.close()
            if kind is None:
                self._publish()
        finally:
            discard_tree(self._temporary)

    def _publish(self) -> None:
        self._write_index()
        tokenizer = copy_into(self._temporary, self._tokenizer)
        write_json(self._temporary / MANIFEST, self._manifest(tokenizer))
        # The content must be on the disk before the name is: after a power failure a renamed folder of empty files would
        # pass for a store. The parent's entry is content too.
        fsync_tree(self._temporary)
        self._temporary.rename(self.path)
        fsync_directory(self.path.parent)

    def _write_index(self) -> None:
        lengths = np.frombuffer(self._lengths, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64) * np.dtype(self._dtype).itemsize
        pointers = np.concatenate(([0], ends[:-1])).astype(np.int64) if len(lengths) else ends
        documents = np.arange(len(lengths) + 1, dtype=np.int64)
        with (self._temporary / IDX).open("wb") as file:
            file.write(index_header(self._dtype, len(lengths)))
            for part in (lengths, pointers, documents):
                file.write(part.tobytes())

    def _manifest(self, tokenizer: Path) -> dict[str, Any]:
        hashes = {name: sha256_file(self._temporary / name) for name in (BIN, IDX, DOCUMENTS)}
        counts = {"documents": len(self._lengths), "tokens": sum(self._lengths)}
        return manifest_of(tokenizer, self._vocab_size, counts, {**self._identity, **self._encoder}, hashes)
