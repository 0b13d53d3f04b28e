"""The folder for an installation without a network: its lock, what pip makes of it, and the whole of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from megabiomed.ground.errors import LaunchError
from megabiomed.launch.wheelhouse import LOCK, WHEELS, Wish, lock, main

ROOT = Path(__file__).parent.parent.parent


def wheel(folder: Path, name: str, version: str) -> Path:
    """A wheel with one module."""
    file = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    texts = {
        f"{name}.py": "x = 1\n",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    texts[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in (*texts, f"{about}/RECORD"))
    with ZipFile(file, "w") as archive:
        for path, text in texts.items():
            archive.writestr(path, text)
    return file


def install(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    words = [
        "--no-index",
        "--find-links",
        folder,
        "--require-hashes",
        "--requirement",
        folder / LOCK,
        "--target",
        target,
    ]
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", *map(str, words)]
    shell = {"PIP_CONFIG_FILE": "/dev/null", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, env=shell)


def test_pip_takes_the_wheels_of_the_lock_and_refuses_one_that_was_changed(tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, "some_package", "1.2"), wheel(tmp_path, "torch_like", "2.13.0+cpu")]
    text = lock(wheels, "Python 3.11")
    (tmp_path / LOCK).write_text(text)
    assert text.splitlines()[0].endswith("; Python 3.11")
    assert [line.split(" --hash")[0] for line in text.splitlines()[1:]] == [
        "some-package==1.2",
        "torch-like==2.13.0+cpu",
    ]
    done = install(tmp_path, tmp_path / "here")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "torch_like.py").is_file()
    with wheels[0].open("ab") as file:
        file.write(b"x")
    done = install(tmp_path, tmp_path / "there")
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "there").exists()


def test_two_wheels_of_one_package_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="two wheels of one package: got a-2-py3"):
        lock([wheel(tmp_path, "a", "1"), wheel(tmp_path, "a", "2")], "")


def test_a_folder_that_exists_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").touch()
    assert main([str(tmp_path), "--torch", "torch==2.13.0"]) == 2
    assert f"new folder: got {tmp_path}; remove it or name another one" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_another_interpreter_gets_every_tag_that_its_pip_would_take() -> None:
    assert Wish("torch").target == []
    words = Wish("torch", python="3.12").target
    assert words[:5] == ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]
    tags = [tag for option, tag in zip(words, words[1:]) if option == "--platform"]
    assert {"manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_was_gathered_installs_and_trains_without_a_network(tmp_path: Path) -> None:
    house, place = tmp_path / "house", tmp_path / "env"
    make = ["make", "wheelhouse", f"WHEELHOUSE={house}", f"PYTHON={sys.executable}"]
    subprocess.run(make, cwd=ROOT, check=True, timeout=600)
    assert {file.name for file in house.iterdir()} == {WHEELS, LOCK, "install.sh"}
    script = f"""set -e
        ip link set lo up
        PYTHON={sys.executable} sh {house}/install.sh {place}
        cd {tmp_path}
        {place}/bin/megabiomed corpus generate r.jsonl.gz --papers 100
        {place}/bin/megabiomed corpus build r.jsonl.gz --output c --vocab-size 600 --validation-fraction 0.2
        {place}/bin/megabiomed pretrain demo run_dir=run data.train.0.path=c/train data.validation=c/validation \\
            data.tokenizer=null train.steps=2 train.epochs=null"""
    done = subprocess.run(["unshare", "--net", "bash", "-c", script], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "finished: step 2 of 2" in done.stdout
