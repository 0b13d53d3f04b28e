"""What is copied of a path: the files of a store, of a model folder, or one file; known without reading their content."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import FileError
from megabiomed.ground.files import inside, read_json
from megabiomed.ground.staged import ITSELF

MANIFEST = "manifest.json"
_STORES = ("tokens.bin", "records.arrow")
"""Files of token stores, and of those of questions and datasets."""
_CONFIG = "config.json"
_WHOLE = ("model.safetensors", "model.safetensors.index.json")
"""Where a folder has one of these, nobody reads the same weights in other formats beside them."""
_OTHER_FORMATS = (".bin", ".bin.index.json", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot")


@dataclass(frozen=True)
class SourceFile:
    """A file to copy.

    Attributes:
        name: in the folder of its source; ITSELF for a source that is this file.
        mtime_ns: time of its content.
        sha256: what its store says of it; None where nobody said.
    """

    name: str
    bytes: int
    mtime_ns: int
    sha256: str | None = None


@dataclass(frozen=True)
class Source:
    """A path of a configuration, absolute, with its files."""

    path: str
    files: tuple[SourceFile, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(file.bytes for file in self.files)

    @cached_property
    def ident(self) -> str:
        """Name of its copy; another one when a file changes."""
        state = json.dumps([self.path, [(file.name, file.bytes, file.mtime_ns) for file in self.files]])
        return f"{os.path.basename(self.path)[:40]}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"

    def at(self, file: SourceFile) -> Path:
        """Where one of its files is."""
        return Path(self.path) if file.name == ITSELF else Path(self.path) / file.name


def source_of(path: Path, group: str) -> Source | None:
    """What is to be copied of a path; None where there is nothing of its kind (no store, or a checkpoint).

    Args:
        group: `data`, `init_from` or `encoders`.

    Raises:
        FileError: a manifest is damaged, or a link leads out of the folder.
        OSError: the storage refuses.
    """
    where = os.path.abspath(path)
    if os.path.isfile(where):
        return Source(where, (_file(Path(where), ITSELF, {}),)) if group == "encoders" else None
    if not os.path.isdir(where):
        return None
    folder = Path(where)
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    if group == "data" and (MANIFEST not in names or not set(_STORES) & set(names)):
        return None
    if group == "init_from" and _CONFIG not in names:
        return None
    if set(_WHOLE) & set(names):
        names = [name for name in names if not name.endswith(_OTHER_FORMATS)]
    hashes = hashes_of(folder) if MANIFEST in names else {}
    return Source(where, tuple(_file(inside(folder, name), name, hashes) for name in names)) if names else None


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of files of a store, by name, as its manifest has them."""
    manifest: dict[str, Any] = read_json(folder / MANIFEST, dict)
    files, tables = manifest.get("files", {}), manifest.get("sha256", {})
    if not isinstance(files, dict) or not isinstance(tables, dict):
        raise FileError(f"{folder / MANIFEST} is damaged", do="copy the store again or rebuild it")
    named = {name: about.get("sha256") for name, about in files.items() if isinstance(about, dict)}
    named |= {f"{name}.arrow": value for name, value in tables.items()}
    return {name: value for name, value in named.items() if isinstance(value, str)}


def _file(path: Path, name: str, hashes: dict[str, str]) -> SourceFile:
    found = path.stat()
    return SourceFile(name, found.st_size, found.st_mtime_ns, hashes.get(name))
