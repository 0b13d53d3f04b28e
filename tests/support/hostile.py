"""Files and values that a user may give by mistake where something else is meant."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
from collections.abc import Iterator
from pathlib import Path

from support.mutate import mutate

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
CONTENTS = {
    "empty": b"",
    "nul": b"\0" * 64,
    "utf16": '{"question": "a", "id": 1}\n'.encode("utf-16"),
    "bom": '\ufeff{"question": "a", "id": 1}\n'.encode(),
    "latin1": '{"question": "é"}\n'.encode("latin-1"),
    "array": b"[]",
    "array-of-numbers": b"[1, 2]",
    "number": b"7",
    "null": b"null",
    "text": b'"x"',
    "nested": b"[" * 100_000,
    "nested-yaml": b"{a: " * 5_000,
    "huge-number": b'{"a": ' + b"9" * 5000 + b"}",
    "nan": b'{"a": NaN, "b": -Infinity, "c": 1e999}',
    "lfs": LFS.encode(),
    "half-surrogate": b'{"question": "\\ud800"}\n',
    "random": bytes(range(256)) * 8,
    "pickle": b"\x80\x04K\x01.",
    "zip": b"PK\x03\x04" + b"\0" * 40,
    "safetensors": b"\xff" * 8 + b"{}",
    "parquet": b"PAR1" + b"\0" * 20 + b"PAR1",
}
_SUFFIXES = ("json", "jsonl", "parquet", "model", "pt", "safetensors", "yaml", "csv", "sdf", "zst")
NUMBERS = ["-1", "0", "1" + "0" * 400, "nan", "inf", "-inf", "1e400", "", "x" * 300, "2", "9223372036854775807"]
TEXTS = [
    "", "x" * 300, "a=b", "=", "a.b=", "nan", "\ud800", "\x1b[31m", "{", "[" * 3000, "a:b", "/", "..", "m.n:o", "1" * 5000,
]  # fmt: skip


def hostile_paths(folder: Path) -> list[Path]:
    """Paths of files, and of what is none, that no command expects; a pipe and links included."""
    folder.mkdir(parents=True)
    found = [
        folder / "missing",
        folder / "text" / "below-a-file",
        folder / ("x" * 300),
        folder / "/".join(["d" * 200] * 30),
    ]
    files = {**CONTENTS, "caf\udce9": b"{}", "no.jsonl.gz": b"no gzip"}
    line = json.dumps({"question": "a"}).encode()
    files |= {"p.jsonl.bz2": bz2.compress(line), "p.jsonl.xz": lzma.compress(line), "p.jsonl.gz": gzip.compress(line)}
    for suffix in _SUFFIXES:
        files |= {f"{name}.{suffix}": CONTENTS[name] for name in ("empty", "array", "random", "lfs", "null")}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        found.append(folder / name)
    (folder / "folder").mkdir()
    (folder / "dangling").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return [*found, folder / "folder", folder / "dangling", folder / "loop", folder / "pipe"]


def damaged(file: Path, rng: random.Random, mutations: int) -> Iterator[bytes]:
    """Contents that a file may have after an accident or an attack: cut, overwritten, of another kind, or wrong inside.

    Args:
        mutations: how often one thing inside is changed, for JSON, JSON lines and the header of safetensors.
    """
    data = file.read_bytes()
    yield from (b"", data[: len(data) // 2], LFS.encode(), b"\xef\xbb\xbf" + data)
    flipped = bytearray(data)
    for place in rng.choices(range(min(len(data), 3000)), k=5) if data else ():
        flipped[place] = rng.randrange(256)
    yield bytes(flipped)
    if file.suffix in (".json", ".jsonl"):
        yield from (CONTENTS[name] + b"\n" for name in ("array", "number", "nested", "array-of-numbers", "huge-number"))
        lines = data.splitlines() if file.suffix == ".jsonl" else [data]
        for _ in range(mutations):
            yield b"\n".join(_changed(line, rng) for line in lines) + b"\n"
    if file.suffix == ".safetensors":
        size = int.from_bytes(data[:8], "little")
        for _ in range(mutations):
            header = _changed(data[8 : 8 + size], rng)
            yield len(header).to_bytes(8, "little") + header + data[8 + size :]


def _changed(text: bytes, rng: random.Random) -> bytes:
    return json.dumps(mutate(json.loads(text), rng)).encode()
