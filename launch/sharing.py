"""Run folders that a group of users shares: the `umask` of the cluster file, setgid, and what another user's run lacks."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import records


@contextmanager
def permissions(cluster: Mapping[str, Any]) -> Iterator[None]:
    """What is made meanwhile has the permissions that a cluster file asks for; without `umask` those of this shell.

    A mask belongs to the process, and sbatch hands it to the job: its log and all of its files have it too.

    Args:
        cluster: the keys of the file, or what a record holds of them.
    """
    wished = cluster.get("umask")
    if not isinstance(wished, str):
        yield
        return
    before = os.umask(int(wished, 8))
    try:
        yield
    finally:
        os.umask(before)


def of_run(run: Path) -> Mapping[str, Any]:
    """What the record of a run holds of its cluster file; empty when nothing was submitted, or it cannot be read."""
    with suppress(LaunchError):
        found = records.read_job(run).get("cluster", {})
        return found if isinstance(found, dict) else {}
    return {}


def keep_group(run: Path, cluster: Mapping[str, Any]) -> None:
    """Set the setgid bit on the folders of a new run that its group may write: all files in them then have its group."""
    wished = cluster.get("umask")
    if not isinstance(wished, str) or int(wished, 8) & stat.S_IWGRP:
        return
    for folder in (run, run / records.SLURM, run / records.SLURM / records.VERDICTS):
        held = folder.stat()
        if held.st_uid == os.geteuid() and not held.st_mode & stat.S_ISGID:
            with suppress(PermissionError):  # storage that knows no groups
                folder.chmod(stat.S_IMODE(held.st_mode) | stat.S_ISGID)


@contextmanager
def in_one_line(run: Path) -> Iterator[None]:
    """Say in one line that this user may not change a run."""
    try:
        yield
    except PermissionError as error:
        raise LaunchError(
            f"{run} belongs to {owner(run)}, and this user may not change it",
            got=f"{error.filename}: {error.strerror}",
            do='ask its owner; `umask: "0007"` in the cluster file lets the group do so',
        ) from None


def owner(run: Path) -> str:
    """Name of the user who owns a run folder; the number of one without a name."""
    number = run.stat().st_uid
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"user {number}"
