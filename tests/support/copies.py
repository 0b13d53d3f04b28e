"""What nodes copy before ranks start: small folders of weights and stores, and the task of a node in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from megabiomed.ground.files import sha256_file

SIZE = 300_000
"""Bytes of the large file of each."""


def model(folder: Path, size: int = SIZE, seed: int = 0) -> Path:
    """A folder of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes([seed]) * size)
    (folder / "pytorch_model.bin").write_bytes(b"the same in another format")
    return folder


def token_store(folder: Path) -> Path:
    folder.mkdir()
    (folder / "tokens.bin").write_bytes(os.urandom(SIZE))
    files = {"tokens.bin": {"bytes": SIZE, "sha256": sha256_file(folder / "tokens.bin")}}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


def wanted(copies: Path, *paths: Path, most: int | None = None, minutes: float = 5) -> dict[str, Any]:
    reads = [["data" if (path / "manifest.json").is_file() else "init_from", path.name, str(path)] for path in paths]
    return {"folder": str(copies), "max_bytes": most, "minutes": minutes, "reads": reads}


def begin(tmp_path: Path, record: dict[str, Any], log: str = "log") -> subprocess.Popen[bytes]:
    (tmp_path / "run" / "slurm").mkdir(parents=True, exist_ok=True)
    (tmp_path / "logs" / "staged").mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / "slurm" / "job.json").write_text(json.dumps({"stage_in": record}))
    words = ["-m", "megabiomed.launch.stage_in.node", str(tmp_path / "run"), str(tmp_path / "logs")]
    known = {name: value for name, value in os.environ.items() if name != "SLURMD_NODENAME"}
    with (tmp_path / log).open("wb") as file:
        return subprocess.Popen([sys.executable, *words], stdout=file, stderr=file, env=known)
