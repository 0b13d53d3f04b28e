"""`make wheelhouse`: everything that an installation without a network needs, in one folder.

wheels/             one wheel of each package, megabiomed's own among them; what exists as source only is built
requirements.txt    each package with its exact version and the hash of its wheel (pip's --require-hashes)
install.sh          makes an environment from the two

It runs before anything is installed: with Python's own library, and pip in an environment of its own.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import new_folder, sha256_file, write_atomic
from megabiomed.ground.outcome import end
from megabiomed.launch import snapshot

ROOT = Path(__file__).resolve().parent.parent  # through the link megabiomed/launch
PACKED = ("megabiomed", "kernels", "launch", "configs", "setup.py", "README.md", "LICENSE")
WHEELS = "wheels"
LOCK = "requirements.txt"
_ABSENT = re.compile(r"No matching distribution found for ([\w.-]+)(\S*)")
_INSTALL = """#!/bin/sh
# Installs megabiomed {version} from this folder into an environment, without a network: sh install.sh FOLDER
# PYTHON names the interpreter (python3). pip refuses a wheel that is not the one of requirements.txt.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=${{1:?usage: sh install.sh FOLDER}}
python=${{PYTHON:-python3}}
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
if [ "$found" != "{python}" ]; then
    echo "error: these wheels are for another Python: got $found ($python), expected {python}; set PYTHON" >&2
    exit 2
fi
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
# No setting of this machine may bring an index back.
PIP_CONFIG_FILE=/dev/null PIP_DISABLE_PIP_VERSION_CHECK=1 "$folder/bin/python" -m pip --isolated install --quiet \\
    --no-index --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt"
"$folder/bin/megabiomed" --version
"""


@dataclass(frozen=True)
class Wish:
    """What a wheelhouse is for.

    Attributes:
        torch: words for pip: an exact requirement, and where to find it (`torch==2.13.0 --index-url ...`).
        more: requirements beside megabiomed's own.
        extras: of megabiomed (`dev`, `tensorboard`, ...).
        python: version of another interpreter than this one (`3.12`); None: this one.
        platform: tag of the machine that installs (`manylinux_2_28_x86_64`), where `python` is given.
    """

    torch: str
    more: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    python: str | None = None
    platform: str = "manylinux_2_28_x86_64"

    @property
    def target(self) -> list[str]:
        """Options of pip for wheels of another interpreter."""
        if self.python is None:
            return []
        older = re.sub(r"_2_\d+_", "{}", self.platform)
        tags = dict.fromkeys([self.platform, *(older.format(f"_2_{minor}_") for minor in (28, 27, 24, 17))])
        tags |= dict.fromkeys([older.format("2014_"), older.format("2010_"), older.format("1_")])
        named = [word for tag in tags for word in ("--platform", tag)]
        return ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python, *named]


def make(folder: Path, wish: Wish) -> int:
    """Fill a new folder; returns the number of wheels.

    Raises:
        LaunchError: the folder exists, or pip could not find, download or build a package; it has printed why.
    """
    if folder.exists():
        raise LaunchError("the wheelhouse is made in a new folder", got=folder, do="remove it or name another one")
    with new_folder(folder) as half, tempfile.TemporaryDirectory(prefix="megabiomed-wheels-") as work:
        pip = _pip(Path(work))
        own = _own_wheel(pip, Path(work), wish)
        _gather(pip, wish, own, Path(work), half / WHEELS)
        wheels = sorted((half / WHEELS).glob("*.whl"))
        python = wish.python or f"{sys.version_info.major}.{sys.version_info.minor}"
        write_atomic(
            half / LOCK, lock(wheels, f"Python {python}, {wish.torch}, extras: {', '.join(wish.extras) or '-'}")
        )
        version = own.name.split("-")[1]
        write_atomic(half / "install.sh", _INSTALL.format(version=version, python=python))
    return len(wheels)


def lock(wheels: Iterable[Path], about: str) -> str:
    """Requirements that name exactly these wheels.

    Raises:
        LaunchError: two of one package: pip would not know which.
    """
    code = snapshot.version()
    commit = f" ({code['commit']}{', changed' if code['changed'] else ''})" if code["commit"] else ""
    lines: dict[str, str] = {}
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        if (key := re.sub(r"[-_.]+", "-", name).lower()) in lines:
            raise LaunchError(
                "two wheels of one package", got=wheel.name, do="make the wheelhouse anew in an empty folder"
            )
        lines[key] = f"{key}=={version} --hash=sha256:{sha256_file(wheel)}"
    return "\n".join([f"# megabiomed {code['megabiomed']}{commit}; {about}", *lines.values(), ""])


def _pip(work: Path) -> list[str]:
    """pip in an environment of its own: what is installed beside it plays no part."""
    _run([sys.executable, "-m", "venv", str(work / "pip")], "an environment for pip could not be made")
    return [str(work / "pip" / "bin" / "python"), "-m", "pip", "--quiet"]


def _own_wheel(pip: list[str], work: Path, wish: Wish) -> Path:
    """The wheel of this checkout, from a copy: what an earlier build left beside it stays out."""
    copy = work / "checkout"
    copy.mkdir()
    for name in PACKED:
        source = ROOT / name
        if not source.exists():
            raise LaunchError(f"{ROOT} is not a checkout of megabiomed", got=f"no {name}", do="run it in a checkout")
        if source.is_dir():
            shutil.copytree(source, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    _run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(work / "own"), str(copy)],
        "the wheel of megabiomed was not built",
    )
    (wheel,) = (work / "own").glob("*.whl")
    with ZipFile(wheel) as archive:
        about = archive.read(f"{'-'.join(wheel.name.split('-')[:2])}.dist-info/METADATA").decode()
    known = re.findall(r"^Provides-Extra: (\S+)", about, re.MULTILINE)
    if unknown := sorted(set(wish.extras) - set(known)):
        raise LaunchError("megabiomed has no such extra", got=", ".join(unknown), expected=", ".join(known))
    return wheel


def _gather(pip: list[str], wish: Wish, own: Path, work: Path, wheels: Path) -> None:
    """All wheels. torch comes first and exactly, as in `make install`: then nothing can take another build of it."""
    first = work / "torch"
    first.mkdir()
    verb = ["download"] if wish.python else ["wheel"]
    place = "--dest" if wish.python else "--wheel-dir"
    words = [*shlex.split(wish.torch), *wish.target]
    _run([*pip, *verb, "--no-deps", place, str(first), *words], "torch was not found")
    (torch,) = first.glob("*.whl")
    (work / "constraints.txt").write_text("{}=={}\n".format(*torch.name.split("-")[:2]))
    extras = f"[{','.join(wish.extras)}]" if wish.extras else ""
    command = [
        *pip,
        *verb,
        place,
        str(wheels),
        "--find-links",
        str(first),
        "--constraint",
        str(work / "constraints.txt"),
    ]
    command += [*wish.target, f"{own}{extras}", *wish.more]
    _insist(command, pip, wish, first)


def _insist(command: list[str], pip: list[str], wish: Wish, found: Path) -> None:
    """Run pip; for another interpreter it takes wheels only, so what has none is built here, where that gives one for any."""
    built: set[str] = set()
    while True:
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        missing = _ABSENT.search(done.stderr) if wish.python else None
        if done.returncode == 0:
            return
        if missing is None or missing[1] in built:
            sys.stderr.write(done.stderr)
            raise LaunchError("the wheels were not gathered", got=f"exit code {done.returncode} of pip", do="see above")
        built.add(missing[1])
        what = "".join(missing.groups())
        before = set(found.iterdir())
        _run([*pip, "wheel", "--no-deps", "--wheel-dir", str(found), what], f"{what} has no wheel and was not built")
        made = [file.name for file in set(found.iterdir()) - before]
        if not all(name.endswith("-none-any.whl") for name in made):
            raise LaunchError(
                f"{missing[1]} has to be compiled for Python {wish.python}",
                got=", ".join(made),
                do="make the wheelhouse with that interpreter (PYTHON=), not with PYTHON_VERSION",
            )


def _run(command: list[str], what: str) -> None:
    done = subprocess.run(command)
    if done.returncode:
        raise LaunchError(what, got=f"exit code {done.returncode} of {shlex.join(command[:4])}", do="see above")


def main(arguments: list[str]) -> int:
    """The command line of the Makefile."""
    parser = argparse.ArgumentParser(
        prog="make wheelhouse", description="Wheels for an installation without a network."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch", required=True)
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--extras", default="", help="e.g. dev,tensorboard")
    parser.add_argument("--python", help="version of another interpreter, e.g. 3.12")
    parser.add_argument("--platform", default=Wish.platform)
    given = parser.parse_args(arguments)
    extras = tuple(filter(None, given.extras.split(",")))
    try:
        count = make(given.folder, Wish(given.torch, tuple(given.also), extras, given.python, given.platform))
    except Exception as error:
        return end(error, ["wheelhouse", *arguments])
    print(f"{given.folder}: {count} wheels; there: sh {given.folder.name}/install.sh FOLDER")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
