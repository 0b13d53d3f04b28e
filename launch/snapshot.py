"""A copy of the code in the run folder: a job that starts days later, or again, runs what was submitted."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from megabiomed import __version__
from megabiomed.ground.files import discard_tree, remove_tree
from megabiomed.ground.secrets import masked_by_form

CODE = "code"
# Cluster files are read where jobs are submitted, and their variables may be credentials.
_SKIPPED = ("__pycache__", "clusters")


def take(folder: Path) -> None:
    """Copy the package to FOLDER/code, complete or not at all; that folder then goes in front of Python's path."""
    half, final = folder / f".{CODE}", folder / CODE
    remove_tree(half)
    try:
        _copy_tree(_place("megabiomed"), half / "megabiomed")
    except OSError:
        discard_tree(half)
        raise
    remove_tree(final)
    half.rename(final)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy what files hold, with the permissions and the group of new files: those of an installation may shut a group out.

    Links are followed, so kernels/, launch/ and configs/ of a checkout arrive as folders.
    """
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.name in _SKIPPED:
            continue
        if path.is_dir():
            _copy_tree(path, target / path.name)
        elif path.suffix == ".yaml":  # the form that is stored: `***` for a tracker's password
            (target / path.name).write_text(masked_by_form(path.read_text()))
        else:
            shutil.copyfile(path, target / path.name)


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
