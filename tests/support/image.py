"""A root file system for containers, made of this machine's own programs: what a test says about an image needs no download.

Its /etc, /opt and /tmp are its own, and so is its interpreter, which is not installed outside; the system's libraries and the
Python packages are bound into it, read-only. It has no megabiomed: that must come with the job.
"""

from __future__ import annotations

import shutil
import site
import subprocess
import sys
from pathlib import Path

INSTALL = "apt-get install -y --no-install-recommends bubblewrap"
MARK = "etc/image-release"
"""A file that only the image has."""
PYTHON = Path("/opt/image/bin/python")
"""Interpreter of the image; this path does not exist outside."""


def missing() -> str | None:
    """Why no container can be started here; None when one can."""
    if shutil.which("bwrap") is None:
        return f"bwrap missing: {INSTALL}"
    words = ["bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"]
    done = subprocess.run(words, capture_output=True, text=True)
    return f"bwrap cannot make namespaces here: {done.stderr.strip()}" if done.returncode else None


def make(folder: Path) -> Path:
    """Write the root file system into a folder."""
    for name in ("usr", "etc", "proc", "dev", "tmp", "run"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (folder / name).symlink_to(Path("/", name).readlink())
    (folder / MARK).write_text(f"{folder}\n")
    (folder / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    shutil.copy("/etc/ld.so.cache", folder / "etc")
    home = folder / PYTHON.parents[1].relative_to("/")
    packages = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "packages.pth").write_text("".join(f"{path}\n" for path in _packages()))
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    (home / "pyvenv.cfg").write_text(f"home = {Path(sys.executable).resolve().parent}\n")
    return folder


def words(image: Path, *more: str) -> list[str]:
    """Words of a cluster file's `wrap` that run the ranks in the image.

    Args:
        more: options of bubblewrap, such as what else is visible inside.
    """
    seen = ["/usr", sys.base_prefix, *map(str, _packages())]
    bound = [word for path in dict.fromkeys(seen) for word in ("--ro-bind", path, path)]
    return [
        *("bwrap", "--unshare-pid", "--die-with-parent", "--bind", str(image), "/", *bound),
        *(
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--bind",
            "/dev/shm",
            "/dev/shm",
            "--ro-bind",
            "/etc/hosts",
            "/etc/hosts",
        ),
        *("--tmpfs", "/tmp", *more),
    ]


def _packages() -> list[Path]:
    """Folders of installed packages, without that of this checkout."""
    known = {*map(Path, site.getsitepackages())}
    return [path for path in map(Path, sys.path) if path in known or path.name == "site-packages"]
