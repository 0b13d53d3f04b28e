"""A copy of the code in the run folder: a job that starts days later, or again, runs what was submitted."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.ground.files import remove_tree
from megabiomed.ground.secrets import masked_by_form

CODE = "code"


def take(folder: Path) -> None:
    """Copy the package to FOLDER/code, complete or not at all; that folder then goes in front of Python's path."""
    half, final = folder / f".{CODE}", folder / CODE
    remove_tree(half)
    # Cluster files are read where jobs are submitted, and their variables may be credentials.
    skipped = shutil.ignore_patterns("__pycache__", "clusters")
    # copytree follows links, so kernels/, launch/ and configs/ of a checkout arrive as folders.
    try:
        shutil.copytree(_place("megabiomed"), half / "megabiomed", ignore=skipped, copy_function=_copy)
    except shutil.Error as error:  # a list of all files that failed; the first reason is enough
        remove_tree(half)
        raise OSError(error.args[0][0][2]) from None
    remove_tree(final)
    half.rename(final)


def _copy(source: str, target: str) -> None:
    """A file as it is; of a configuration, the form that is stored (`***` for a tracker's password)."""
    shutil.copy2(source, target)
    if source.endswith(".yaml"):
        Path(target).write_text(masked_by_form(Path(source).read_text()))


def _place(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)))


def version() -> dict[str, Any]:
    """Version of this package; of a checkout also its commit and whether it was changed."""
    here = Path(__file__).resolve().parent
    commit = _git(here, "rev-parse", "HEAD")
    changed = bool(_git(here, "status", "--porcelain")) if commit else None
    return {"megabiomed": __version__, "commit": commit, "changed": changed, "python": sys.executable}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
