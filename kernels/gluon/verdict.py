"""The verdict of the self-check, remembered on disk: it is found once for a kind of machine, not in every rank of every start.

A verdict holds for one device, driver, torch, Triton, source of the kernels, type and head size. A file that says something
else, or that another user may have written, counts as absent. A failure is remembered too; `forget` ends that.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from megabiomed.ground.cache import cache_folder, locked
from megabiomed.ground.errors import FileError
from megabiomed.ground.files import json_text, read_json, sha256_bytes, write_atomic
from megabiomed.processes import platform

PREFIX = "hopper-"
Identity = dict[str, str]


@dataclass(frozen=True)
class Verdict:
    """Result of one self-check.

    Attributes:
        reason: why the kernels must not run, or None when they passed.
        seconds: what the check took, compilation included.
        checked: when, in UTC.
        lasting: False when the reason has to do with this moment alone (device busy, no memory left); it is not written.
    """

    reason: str | None
    seconds: float
    checked: str
    lasting: bool = True

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        when = f"in {self.seconds:.0f} s on {self.checked}"
        if self.reason is None:
            return f"self-check passed {when}"
        again = "; `megabiomed bench kernels --recheck` tries again" if self.lasting else ""
        return f"its self-check on this device failed: {self.reason} ({when}{again})"


def now() -> str:
    """The time as verdicts note it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def identity_of(device: torch.device, dtype: torch.dtype, head_size: int) -> Identity:
    """All that a verdict depends on."""
    major, minor = torch.cuda.get_device_capability(device)
    return {
        "device": torch.cuda.get_device_name(device),
        "capability": f"{major}.{minor}",
        "driver": platform.driver_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "kernels": sources_sha256(),
        "dtype": str(dtype).removeprefix("torch."),
        "head_size": str(head_size),
    }


def sources_sha256(folder: Path = Path(__file__).parent.parent) -> str:
    """SHA-256 over the files of which the kernels and their check consist."""
    digest = hashlib.sha256()
    beside = [folder / name for name in ("document_attention.py", "documents.py", "rope.py")]
    for file in sorted([*beside, *folder.glob("gluon/*.py"), *folder.glob("triton/*.py")]):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def remembered(identity: Identity, check: Callable[[], Verdict], wait_s: float) -> Verdict:
    """The verdict for this identity. Where none is known, one process of this machine checks and the others wait for it.

    Args:
        check: finds the verdict.
        wait_s: how long to wait for another process that is checking.
    """
    folder = cache_folder()
    if folder is None:
        return check()
    name = PREFIX + sha256_bytes(json_text(identity).encode())[:16]
    path = folder / f"{name}.json"
    known = _read(path, identity)
    if known is not None:
        return known
    with locked(folder / f"{name}.lock", wait_s) as mine:
        known = _read(path, identity)  # another may have written it meanwhile
        if known is not None:
            return known
        if not mine:
            return Verdict("another process has been busy with it for too long", wait_s, now(), lasting=False)
        found = check()
        if found.lasting:
            _write(path, identity, found)
    return found


def forget() -> int:
    """Remove every remembered verdict; returns how many there were."""
    folder = cache_folder()
    files = [*folder.glob(f"{PREFIX}*.json")] if folder else []
    for file in files:
        file.unlink(missing_ok=True)
    return len(files)


def _write(path: Path, identity: Identity, found: Verdict) -> None:
    try:
        write_atomic(path, json_text({"identity": identity, **asdict(found)}), mode=0o600)
    except OSError:  # a full disk: the next start checks again
        return


def _read(path: Path, identity: Identity) -> Verdict | None:
    try:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            return None
        stored: Any = read_json(path)
    except (OSError, FileError):
        return None
    if not isinstance(stored, dict) or stored.pop("identity", None) != identity:
        return None
    if set(stored) != {"reason", "seconds", "checked", "lasting"}:
        return None
    reason, seconds = stored["reason"], stored["seconds"]
    checked = stored["checked"]
    typed = isinstance(reason, (str, type(None))) and isinstance(seconds, (int, float)) and isinstance(checked, str)
    return Verdict(reason, seconds, checked) if typed else None
