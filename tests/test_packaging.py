"""What is installed is what stands in the checkout: links to kernels/, launch/ and configs/ become folders in archives."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKED = ("kernels", "launch", "configs")
KEPT = (".py", ".yaml", ".j2", ".typed", "VERSION")


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(source archive, wheel made from what it holds), as pip makes them, without a network."""
    folder = tmp_path_factory.mktemp("archives")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("megabiomed", *LINKED, "setup.py", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, checkout / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout)
    _setup(checkout, "sdist", "--dist-dir", str(folder))
    (source_archive,) = folder.glob("*.tar.gz")
    with tarfile.open(source_archive) as archive:
        archive.extractall(folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    _setup(unpacked, "bdist_wheel", "--dist-dir", str(folder))
    (wheel,) = folder.glob("*.whl")
    return source_archive, wheel


def _setup(folder: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, "setup.py", "-q", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def _expected() -> set[str]:
    """Files of the package in the checkout, read through the links."""
    package = ROOT / "megabiomed"
    found: set[str] = set()
    for folder, _, files in os.walk(package, followlinks=True):
        found |= {str((Path(folder) / file).relative_to(ROOT)) for file in files if file.endswith(KEPT)}
    return found


def test_a_plain_checkout_shows_every_file_to_static_tools() -> None:
    for name in LINKED:
        link = ROOT / "megabiomed" / name
        assert link.is_symlink()
        assert os.readlink(link) == f"../{name}"
    assert {"megabiomed/kernels/dispatch.py", "megabiomed/launch/templates/job.sh.j2"} <= _expected()


def test_the_recipe_of_an_image_takes_what_a_source_archive_does_and_the_torch_of_the_makefile() -> None:
    recipe, makefile = (ROOT / "launch" / "Containerfile").read_text(), (ROOT / "Makefile").read_text()
    copied = {word for line in re.findall(r"^COPY (.*)$", recipe, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == {"megabiomed", *LINKED, "setup.py", "README.md", "LICENSE"}
    for package in ("torch", "triton"):
        (used,) = set(re.findall(rf"{package}==[\d.]+", recipe))
        assert used in makefile


@pytest.mark.timeout(120)
def test_source_archive_and_wheel_hold_every_file_and_no_link(archives: tuple[Path, Path]) -> None:
    source, wheel = archives
    with tarfile.open(source) as archive:
        members = archive.getmembers()
    assert [member.name for member in members if member.issym() or member.islnk()] == []
    in_source = {member.name.partition("/")[2] for member in members}
    assert _expected() - in_source == set()
    assert _expected() - set(zipfile.ZipFile(wheel).namelist()) == set()


@pytest.mark.timeout(120)
def test_the_wheel_works_without_the_checkout(archives: tuple[Path, Path], tmp_path: Path) -> None:
    zipfile.ZipFile(archives[1]).extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    script = "import megabiomed.launch.submit as s, megabiomed.kernels.dispatch as d; print(s.__file__, d.__file__)"
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(Path(file).is_relative_to(tmp_path) for file in done.stdout.split())
    words = ["pretrain", "demo", "--dry-run", "train.steps=3", "train.epochs=null"]
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", *words], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "parameters" in done.stdout
