"""What a configuration reads from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabiomed.config.base import Section


def read_paths(section: Section, at: str = "") -> Iterator[tuple[str, Path]]:
    """(key, path) of everything on disk that a configuration reads."""
    for name in type(section).model_fields:
        for key, value in _entries(f"{at}{name}", getattr(section, name)):
            if isinstance(value, Section):
                yield from read_paths(value, f"{key}.")
            # run_dir is written to, not read.
            elif isinstance(value, Path) and key != "run_dir":
                yield key, value
            # A word, or a path.
            elif key == "checkpoint.resume" and value not in ("auto", "never"):
                yield key, Path(value)


def _entries(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, list | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [(f"{key}.{name}", item) for name, item in pairs]
    return [(key, value)]
