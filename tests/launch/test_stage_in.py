"""Copies on a node: made once, checked, used again, removed when there is no room, and never a reason to fail."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import image
from support.copies import SIZE, begin, model, token_store, wanted

import megabiomed
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.ground.files import read_json, sha256_file
from megabiomed.ground.staged import note_of
from megabiomed.launch.stage_in import room
from megabiomed.launch.stage_in.node import failed_on_copies, stage, still_read
from megabiomed.launch.stage_in.report import copied_seconds, lines, of_start, shown, summary
from megabiomed.launch.stage_in.sources import source_of
from megabiomed.processes.signals import LOGS, WARNED

Node = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return tmp_path / "node" / "copies"


@pytest.fixture
def node(tmp_path: Path, copies: Path) -> Node:
    """Runs the task of a node as the batch script does; what it noted of each path."""

    def start(*paths: Path, **more: Any) -> dict[str, dict[str, Any]]:
        process = begin(tmp_path, wanted(copies, *paths, **more))
        assert process.wait(120) == 0
        note = json.loads((tmp_path / "logs" / "staged" / f"{os.uname().nodename}.json").read_text())
        return {copy["key"]: copy for copy in note["copies"]}

    return start


def test_a_second_start_uses_the_copies_of_the_first(tmp_path: Path, node: Node, copies: Path) -> None:
    base, store = model(tmp_path / "base"), token_store(tmp_path / "store")
    checkpoint = tmp_path / "step_1"
    checkpoint.mkdir()
    first, second = node(base, store, checkpoint), node(base, store, checkpoint)
    assert sorted(first) == sorted(second) == ["base", "store"]  # of a checkpoint nothing is copied
    assert [copy["reused"] for copy in (*first.values(), *second.values())] == [False, False, True, True]
    for source, copy in ((base, first["base"]), (store, first["store"])):
        assert Path(copy["local"]).is_relative_to(copies)
        assert all((Path(copy["local"]) / name).read_bytes() == (source / name).read_bytes() for name in copy["files"])
    assert sorted(first["base"]["files"]) == ["config.json", "model.safetensors"]
    said = json.loads((Path(first["store"]["local"]) / ".copy.json").read_text())["files"]["tokens.bin"]["hash"]
    assert said == f"sha256: {sha256_file(store / 'tokens.bin')}"


def test_a_copy_that_was_changed_under_its_readers_is_left_and_a_source_that_changed_is_copied_beside_it(
    tmp_path: Path, copies: Path
) -> None:
    base = model(tmp_path / "base")
    (before,) = stage(wanted(copies, base))["copies"]
    local = Path(before["local"]) / "model.safetensors"
    local.write_bytes(b"x" * SIZE)
    # This process holds the copy, as ranks that read it do.
    assert begin(tmp_path, wanted(copies, base)).wait(120) == 0
    assert "was changed, and another job reads it" in (tmp_path / "log").read_text()
    model(base, seed=7)
    (after,) = stage(wanted(copies, base))["copies"]
    assert (after["reused"], after["local"] != before["local"]) == (False, True)
    assert (Path(after["local"]) / "model.safetensors").read_bytes() == bytes([7]) * SIZE


def test_a_damaged_copy_that_nobody_reads_is_made_again(tmp_path: Path, node: Node) -> None:
    base = model(tmp_path / "base")
    local = Path(node(base)["base"]["local"]) / "model.safetensors"
    local.write_bytes(b"x" * SIZE)
    assert not node(base)["base"]["reused"]
    assert local.read_bytes() == (base / "model.safetensors").read_bytes()


def test_a_store_that_is_not_what_its_manifest_says_is_left_to_the_ranks(tmp_path: Path, copies: Path) -> None:
    store = token_store(tmp_path / "store")
    (store / "tokens.bin").write_bytes(os.urandom(SIZE))
    (copy,) = stage(wanted(copies, store))["copies"]
    assert copy["local"] is None
    assert "is not what the manifest describes" in copy["why"]
    assert [path.name for path in copies.iterdir() if path.is_dir()] == []


def test_those_that_were_wanted_longest_ago_are_removed_and_none_that_is_read_or_young(
    tmp_path: Path, node: Node, copies: Path
) -> None:
    bases = [model(tmp_path / f"base{n}") for n in range(4)]
    most = 3 * SIZE + 1000
    places = [Path(node(base, most=most)[base.name]["local"]) for base in bases[:3]]
    assert "no room in " in node(bases[3], most=most)["base3"]["why"]  # they are young
    for age, place in zip((5000, 9000, 7000), places):
        os.utime(place / room.COPY, times=(time.time() - age,) * 2)
    code = "import sys; from megabiomed.ground.staged import local; print(local(sys.argv[1]), flush=True); sys.stdin.read()"
    note = {
        "copies": [
            {"key": "k", "source": str(bases[1]), "local": str(places[1]), "lock": f"{places[1]}.lock", "files": {}}
        ]
    }
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "n.json").write_text(json.dumps(note))
    known = {**os.environ, "MEGABIOMED_STAGED": str(tmp_path / "notes"), "SLURMD_NODENAME": "n"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(bases[1])], env=known, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == str(places[1])
        assert node(bases[3], most=most)["base3"]["local"]
        assert [place.is_dir() for place in places] == [True, True, False]
        reader.kill()
    assert node(bases[2], most=most)["base2"]["local"]
    assert [place.is_dir() for place in places] == [True, False, True]


def test_a_quota_counts_as_the_disk_does(tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "quota").write_text("#!/bin/sh\necho /dev/x 1000 0 1100 0 3 0 0 0\n")
    (tools / "quota").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    why = node(model(tmp_path / "base"))["base"]["why"]
    assert why.startswith("no room in ")
    assert f"free, by the quota of user {os.geteuid()}, 0 B in copies, expected 293.0 KiB" in why


def test_two_jobs_that_start_on_a_node_together_copy_once(tmp_path: Path, copies: Path) -> None:
    store = token_store(tmp_path / "store")
    together = [begin(tmp_path, wanted(copies, store), f"log{n}") for n in range(3)]
    assert [process.wait(120) for process in together] == [0, 0, 0]
    said = "".join((tmp_path / f"log{n}").read_text() for n in range(3))
    assert (said.count("copying"), said.count("there already")) == (1, 2)


def test_a_copy_over_which_its_process_died_is_made_anew_and_takes_no_room(
    tmp_path: Path, node: Node, copies: Path
) -> None:
    base, other = model(tmp_path / "base"), model(tmp_path / "other")
    code = (
        "import sys, time; from pathlib import Path; from megabiomed.launch.stage_in.shelf import Shelf\n"
        "from megabiomed.launch.stage_in.sources import source_of\n"
        "def half(folder): folder.mkdir(); (folder / 'model.safetensors').write_bytes(b'x' * 150000); "
        "print('half', flush=True); time.sleep(600)\n"
        "Shelf(Path(sys.argv[1]), None).take(source_of(Path(sys.argv[2]), 'init_from'), half, time.monotonic() + 60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, copies, base], stdout=subprocess.PIPE, text=True) as dying:
        assert dying.stdout is not None
        assert dying.stdout.readline() == "half\n"
        most = 2 * SIZE - 1
        assert "no room in " in node(other, most=most)["other"]["why"]  # all of what is being copied counts
        late = node(base, minutes=0.02)["base"]
        assert "another job did not finish its copy" in late["why"]
        dying.send_signal(signal.SIGKILL)
    assert node(other, most=most)["other"]["local"]
    assert not list(copies.glob(".*.copying"))
    assert node(base)["base"]["local"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR1, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_a_node_that_is_stopped_keeps_the_copies_that_it_had_finished(
    tmp_path: Path, copies: Path, number: int, code: int
) -> None:
    base, other = model(tmp_path / "base"), model(tmp_path / "other")
    source = source_of(other, "init_from")
    assert source is not None
    copies.mkdir(mode=0o700, parents=True)
    (tmp_path / "logs" / "staged").mkdir(parents=True)
    note = note_of(tmp_path / "logs" / "staged", os.uname().nodename)
    with (copies / f"{source.ident}.lock").open("w") as copying:
        fcntl.flock(copying, fcntl.LOCK_EX)  # as somebody who copies it
        process = begin(tmp_path, wanted(copies, base, other))
        until = time.monotonic() + 120
        while not note.is_file() or not read_json(note)["copies"]:
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(60) == code
    found = read_json(note)
    (copy,) = found["copies"]
    assert (Path(copy["local"]) / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    assert found["unfinished"] == ["other"]
    told = summary(note.parent, [os.uname().nodename])
    assert (told["local"], told["bytes"]) == (0, SIZE + 2)
    assert list(told["shared"].values()) == [["other: its copy was not finished when copying ended"]]


def test_who_was_warned_before_the_copying_began_copies_nothing(
    tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container the signal for a process that still starts is lost; the batch script leaves a file."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / WARNED).touch()
    monkeypatch.setenv(LOGS, str(tmp_path / "logs"))
    assert begin(tmp_path, wanted(copies, model(tmp_path / "base"))).wait(120) == 0
    assert not copies.exists()


def test_a_copy_that_takes_too_long_is_left(tmp_path: Path, copies: Path) -> None:
    (copy,) = stage(wanted(copies, model(tmp_path / "base"), minutes=-1))["copies"]
    assert "took longer than it may" in copy["why"]
    assert not list(copies.glob(".*.copying"))


def test_a_folder_that_cannot_be_trusted_or_made_is_not_used(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    free, file = tmp_path / "free", tmp_path / "file"
    file.write_text("")
    free.mkdir()
    free.chmod(0o777)
    for folder, why in ((free, "others may write there"), (file / "below", "Not a directory"), (file, "File exists")):
        (copy,) = stage(wanted(folder, base))["copies"]
        assert why in copy["why"]
        assert copy["local"] is None


def test_a_variable_that_the_node_lacks_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_SCRATCH", raising=False)
    (copy,) = stage(wanted(tmp_path / "${NO_SUCH_SCRATCH}" / "c", model(tmp_path / "base")))["copies"]
    assert copy["why"].startswith("stage_in.folder cannot be used: ${NO_SUCH_SCRATCH} is not set on this node: got /")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_container_that_does_not_show_the_folder_copies_nothing_into_itself(tmp_path: Path) -> None:
    if reason := image.missing():
        pytest.skip(reason)
    base, root = model(tmp_path / "base"), image.make(tmp_path / "image")
    disk = tmp_path / "disk"
    disk.mkdir(mode=0o700)
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    record = wanted(Path("/scratch/copies"), base) | {"image": True}
    (tmp_path / "run" / "slurm" / "job.json").write_text(json.dumps({"stage_in": record}))
    checkout = Path(megabiomed.__file__).resolve().parent.parent
    seen = [word for path in (checkout, tmp_path / "run", tmp_path / "logs", base) for word in ("--bind", path, path)]
    node = [image.PYTHON, "-m", "megabiomed.launch.stage_in.node", tmp_path / "run", tmp_path / "logs"]

    def said(*more: object) -> str:
        words = [*image.words(root, *map(str, [*seen, *more])), *map(str, node)]
        known = {**os.environ, "PYTHONPATH": str(checkout)}
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=known).stdout

    assert "/scratch/copies is not mounted in the container; mount it there at the same path" in said()
    assert not (root / "scratch").exists()
    assert " in /scratch/copies/base-" in said("--bind", disk, "/scratch/copies")
    assert len(list(disk.glob("base-*/model.safetensors"))) == 1


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    base = model(tmp_path / "base", size=3 << 20)
    code = (
        "mount -t tmpfs -o size=4m tmpfs $1 && mkdir -m 700 $1/c && head -c 2000000 /dev/zero > $1/other && "
        "$2 -m megabiomed.launch.stage_in.node $3 $4; ls -A $1/c"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    begin(tmp_path, wanted(disk / "c", base)).wait(120)  # writes the record
    words = ["unshare", "--mount", "bash", "-c", code, "x", disk, sys.executable, tmp_path / "run", tmp_path / "logs"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this machine allows no mounts")
    assert "is read where it is: no room in " in done.stdout, done.stdout + done.stderr
    assert ".copying" not in done.stdout


def test_the_nodes_of_a_start_are_summed_up_for_the_log_and_for_status(tmp_path: Path) -> None:
    there = {"key": "data", "source": "/d", "bytes": 3 << 30, "local": "/l", "reused": False}
    left = {"key": "data", "source": "/d", "local": None, "why": "No space left on device"}
    folder = tmp_path / "staged"
    folder.mkdir()
    for name, copy in {"n1": there, "n2": left, "n3": there | {"reused": True}}.items():
        (folder / f"{name}.json").write_text(json.dumps({"seconds": 12.0, "copies": [copy], "unfinished": []}))
    found = summary(folder, ["n1", "n2", "n3", "n4"])
    assert list(lines(found)) == [
        "staged in: 2 of 4 nodes read 3.0 GiB from their own storage (3.0 GiB copied, 12.0 s)",
        "staged in: n2 read the shared storage: data: No space left on device",
        "staged in: n4 read the shared storage: no answer",
    ]
    none, silent = ({"nodes": 1, "bytes": 0, "copied_bytes": 0, "local": local, "seconds": 0.0} for local in (1, 0))
    assert list(lines(none | {"shared": {}})) == ["staged in: nothing was to be copied"]
    (line, _) = lines(silent | {"shared": {"n1": ["no answer"]}})
    assert line == "staged in: 0 of 1 nodes read 0 B from their own storage (nothing was copied, 0.0 s)"
    assert shown(found) == "staged on 2 of 4 nodes, shared storage on n2 and 1 more (data: No space left on device)"
    assert of_start(tmp_path / "elsewhere") is None
    assert of_start(tmp_path) == {}
    assert shown({}) == "copying to the nodes"
    (folder / ".summary.json").write_text(json.dumps(found))
    assert (of_start(tmp_path), copied_seconds(tmp_path)) == (found, 12.0)
    for name in ("n2", "n3"):  # whose ranks could not use a copy
        (folder / f"{name}.unread").write_text('{"key": "encoder", "why": "it was removed"}')
    (folder / "n1.unread").write_text("[")
    later = of_start(tmp_path)
    assert later is not None
    assert (later["local"], len(later["shared"])) == (1, 3)
    assert later["shared"]["n2"] == ["data: No space left on device", "encoder: it was removed"]
    assert shown(later | {"shared": {"n3": later["shared"]["n3"]}}).endswith("storage on n3 (encoder: it was removed)")
    (folder / ".summary.json").write_text('{"nodes": 3}')
    assert (of_start(tmp_path), copied_seconds(tmp_path)) == (None, 0.0)


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        ({"node": "n1", "how": "Bus error (SIGBUS)", "error": None}, True),
        ({"node": "n1", "how": "exit code 1", "error": "OSError: COPIES/base/model.safetensors is cut"}, True),
        ({"node": "n2", "how": "Bus error (SIGBUS)", "error": None}, False),
        ({"node": "n1", "how": "Killed (SIGKILL)", "error": None}, False),
        (None, False),
    ],
)
def test_a_start_that_failed_by_reading_makes_the_node_copy_again(
    tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch, failure: dict[str, Any] | None, again: bool
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    (tmp_path / "run" / "slurm").mkdir(parents=True)
    end = json.dumps({"kind": "end", "first_failure": failure}).replace("COPIES", str(copies))
    (tmp_path / "run" / "slurm" / "incarnations.jsonl").write_text(end + "\n")
    assert failed_on_copies(tmp_path / "run", wanted(copies)) is again


def test_what_a_checkpoint_holds_is_copied_for_the_first_start_alone(tmp_path: Path, copies: Path) -> None:
    record = wanted(copies, model(tmp_path / "base"), token_store(tmp_path / "store")) | {"until_saved": ["base"]}
    marker = tmp_path / "run" / "checkpoints" / "step_00000007" / COMMITTED
    marker.parent.mkdir(parents=True)
    assert still_read(tmp_path / "run", record) == record  # a checkpoint that was not finished is none
    marker.touch()
    assert [key for _, key, _ in still_read(tmp_path / "run", record)["reads"]] == ["store"]


def test_copies_that_are_not_trusted_are_made_again(tmp_path: Path, node: Node, copies: Path) -> None:
    base = model(tmp_path / "base")
    node(base)
    (copy,) = stage(wanted(copies, base), distrusted=True)["copies"]
    assert (copy["local"] is not None, copy["reused"]) == (True, False)
