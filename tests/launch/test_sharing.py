"""A run folder that two users of a group share: made by one, changed by the other; both are real users to the kernel."""

from __future__ import annotations

import os
import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from support.scheduling import planned

import megabiomed
from megabiomed.checkpoint.fence import Fence
from megabiomed.config.base import parse
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.ground.files import read_json, write_json
from megabiomed.launch import control, records, sharing
from megabiomed.launch.submit import Job, prepare, render

ALICE = 61001
BRUNO = 61002
STRANGER = 61003
GROUP = 61000
SHARED: dict[str, Any] = {"umask": "0007"}


def as_user(number: int, work: Callable[[], object], groups: tuple[int, ...] = (GROUP,)) -> None:
    """Does some work in a process of another user, whose shell has the mask 022; its error is raised here."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.setgroups(list(groups))
            os.setgid(number)
            os.setuid(number)
            os.umask(0o022)
            work()
        except BaseException:
            os.write(write, traceback.format_exc().encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(child, 0)
    if text:
        raise AssertionError(text)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where everybody may look, which pytest's own folders do not allow, and the group may write."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user needs root")
    package = Path(megabiomed.__file__).resolve().parent
    if not all(place.stat().st_mode & stat.S_IXOTH for place in (package, *package.parents)):
        pytest.skip(f"other users cannot read {package}, which they would submit")
    with TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        shared = Path(name) / "runs"
        shared.mkdir()
        os.chown(shared, 0, GROUP)
        shared.chmod(0o2775)
        yield shared


def job_for(run_file: Path, run: Path, **keys: Any) -> Job:
    stage = planned(run_file, run).stage
    return render(replace(stage, cluster=stage.cluster.model_copy(update=keys)))


def prepared(run_file: Path, run: Path, **keys: Any) -> None:
    job = job_for(run_file, run, **keys)
    as_user(ALICE, lambda: prepare(job, [run]))


def test_what_one_user_submits_another_of_the_group_may_change(run_file: Path, folder: Path) -> None:
    run = folder / "run"
    prepared(run_file, run, **SHARED)
    as_user(ALICE, lambda: (Fence.claim(run, "7.0"), records.append(run, "begin", None, incarnation="7.0.1", step=0)))

    def changes() -> None:
        control.ask(run, "save")
        with sharing.permissions(sharing.of_run(run)), records.submitting([run]):
            records.renew(run)
            write_json(run / "slurm" / records.JOB, dict(records.read_job(run)) | {"job_id": "8"})

    # Not what a shell's mask of 022 gives, as `begin` above: what a command makes itself, in Alice's folders.
    (run / "slurm" / records.INCARNATIONS).chmod(0o660)
    as_user(BRUNO, changes)
    as_user(ALICE, lambda: (control.ask(run, "end"), (run / "control/save").unlink()))
    assert [record["kind"] for record in records.history(run)] == ["begin", "end"]
    assert read_json(run / "slurm" / records.JOB, dict)["job_id"] == "8"
    made = [run / "slurm", *(run / "slurm").rglob("*"), run / "control", run / "control/end"]
    assert {path.stat().st_gid for path in made} == {GROUP}
    shut = [path for path in made if path.is_dir() and stat.S_IMODE(path.stat().st_mode) != 0o2770]
    shut += [path for path in made if path.is_file() and stat.S_IMODE(path.stat().st_mode) != 0o660]
    assert shut == []


def test_without_the_key_the_shell_decides_and_others_are_told_so(run_file: Path, folder: Path) -> None:
    run = folder / "run"
    prepared(run_file, run)
    assert stat.S_IMODE((run / "slurm/job.json").stat().st_mode) == 0o644

    def tries() -> None:
        with pytest.raises(LaunchError, match=rf"{run} belongs to user {ALICE}, and this user may not .* got {run}/"):
            control.ask(run, "pause")
        said = r"cannot be written: got .*Permission denied.*; make room, or ask its owner"
        with pytest.raises(LaunchError, match=said), records.submitting([run]):
            pass
        assert records.read_job(run)["job_id"] is None

    as_user(BRUNO, tries)
    as_user(STRANGER, tries, ())


def test_a_new_run_keeps_its_group_though_the_folder_above_has_no_setgid(run_file: Path, folder: Path) -> None:
    folder.chmod(0o2777)
    folder.chmod(0o777)
    prepared(run_file, folder / "run", **SHARED)
    assert (folder / "run/slurm/code/megabiomed/cli.py").stat().st_gid == ALICE
    assert (folder / "run").stat().st_mode & stat.S_ISGID


def test_the_script_sets_the_mask_before_anything_is_made(run_file: Path, tmp_path: Path) -> None:
    lines = job_for(run_file, tmp_path / "run", **SHARED).script.splitlines()
    assert lines.index("umask 0007") < next(n for n, line in enumerate(lines) if line.startswith("run="))
    assert "umask" not in job_for(run_file, tmp_path / "run").script


@pytest.mark.parametrize("value", [7, 23, "0778", "770", "0777", "u=rwx", ""])
def test_a_mask_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match=r"umask.*(in quotes|own permissions)"):
        parse(ClusterConfig, {"umask": value}, "cluster.yaml")
    assert parse(ClusterConfig, {"umask": "027"}, "cluster.yaml").umask == "027"


def test_jobs_of_another_submitter_are_asked_for(run_file: Path, folder: Path) -> None:
    prepared(run_file, folder / "run", **SHARED)
    assert records.submitters([folder / "run"]) == [f"--user={os.geteuid()},{ALICE}"]
    assert records.submitters([folder / "none"]) == ["--me"]
