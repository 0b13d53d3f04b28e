"""Files and values that a user may give by mistake where something else is meant."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"
TEXT = {
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
NUMBERS = ["-1", "0", "1" + "0" * 400, "nan", "inf", "-inf", "1e400", "", "x" * 300, "2", "9223372036854775807"]
TEXTS = [
    "",
    "x" * 300,
    "a=b",
    "=",
    "a.b=",
    "nan",
    "\ud800",
    "\x1b[31m",
    "{",
    "[" * 3000,
    "a:b",
    "/",
    "..",
    "m.n:o",
    "1" * 5000,
]


def hostile_paths(folder: Path) -> dict[str, Path]:
    """Name -> path of a file (or of what is none) that no command expects; FIFOs and links included."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"missing": folder / "missing", "folder": folder / "folder", "below-a-file": folder / "text" / "x"}
    found["folder"].mkdir()
    for name, data in TEXT.items():
        found[name] = folder / name
        found[name].write_bytes(data)
    for name, pack in (("bz2", bz2.compress), ("xz", lzma.compress), ("gz", gzip.compress)):
        found[name] = folder / f"packed.jsonl.{name}"
        found[name].write_bytes(pack(json.dumps({"question": "a"}).encode()))
    found["no-gz"] = folder / "no.jsonl.gz"
    found["no-gz"].write_bytes(b"no gzip")
    for suffix in ("json", "jsonl", "parquet", "model", "pt", "safetensors", "yaml", "csv", "sdf", "zst"):
        for name in ("empty", "array", "random", "lfs", "null"):
            found[f"{name}.{suffix}"] = folder / f"{name}.{suffix}"
            found[f"{name}.{suffix}"].write_bytes(TEXT[name])
    found |= {"dangling": folder / "dangling", "loop": folder / "loop", "pipe": folder / "pipe"}
    found["dangling"].symlink_to(folder / "nothing")
    found["loop"].symlink_to(found["loop"])
    os.mkfifo(found["pipe"])
    found["long"] = folder / ("x" * 300)
    found["deep"] = folder / ("/".join(["d" * 200] * 30))
    found["undecodable"] = folder / "caf\udce9"
    found["undecodable"].write_bytes(b"{}")
    return found
