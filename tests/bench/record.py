"""Where a benchmark's figures go: a table on the terminal and a JSON file with hardware, commit and versions."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "benchmarks"
PACKAGES = ("torch", "deepspeed", "megatron-core", "transformers")
OF_GPU = (
    "triton", "nvidia-cudnn-cu13", "flash-attn", "flash-attn-3", "flash-attn-4", "liger-kernel",
    "transformer-engine", "torchao",
)  # fmt: skip


def cpu_model() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def commit() -> str:
    """Of this checkout."""
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def store(name: str, results: list[dict[str, Any]], notes: list[str], folder: Path = FOLDER, **more: Any) -> Path:
    """Write FOLDER/NAME.json, docs/benchmarks/ by default; `more` are further fields."""
    record = {
        "benchmark": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count()},
        "versions": versions(),
        "notes": notes,
        **more,
        "results": results,
    }
    path = folder / f"{name}.json"
    write(path, json.dumps(record, indent=1) + "\n")
    return path


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    os.replace(beside, path)


def versions() -> dict[str, str]:
    """Of what is installed; the peers of a GPU only there."""
    found = {}
    for package in (*PACKAGES, *OF_GPU):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package in PACKAGES:
                found[package] = "not installed"
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as Markdown."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + "---|" * len(keys)]
    lines += ["| " + " | ".join(str(row.get(key, "")) for key in keys) + " |" for row in rows]
    return "\n".join(lines)
