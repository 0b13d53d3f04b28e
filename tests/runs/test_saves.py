"""A save that fails is tried again with newer state, and says what is at risk; the run ends only when too much is."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from megabiomed.checkpoint import tensorfile
from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.writer import save_shards
from megabiomed.config import RunConfig
from megabiomed.data.progress import DataProgress
from megabiomed.ground.errors import SaveError
from megabiomed.ground.storage import Room
from megabiomed.runs import saves
from megabiomed.runs.saves import Checkpoints
from megabiomed.runs.tracking.local import LocalFiles
from megabiomed.runs.unsaved import LAST_ATTEMPTS, LONGEST_PAUSE_S, Trouble, Unsaved

SHAPE = (256, 256)


@pytest.fixture
def now() -> list[float]:
    return [0.0]


@pytest.fixture
def make(alone: None, tmp_path: Path, now: list[float]) -> Callable[..., Checkpoints]:
    def made(**settings: int) -> Checkpoints:
        values = {"name": "t", "run_dir": tmp_path / "r", "train": {"steps": 9}, "checkpoint": settings}
        fragment = Fragment(Box.whole("w", SHAPE), {"param": torch.ones(SHAPE)})
        engine: Any = SimpleNamespace(
            fragments=lambda: [fragment], stored_tensors=lambda: {"w": SHAPE}, extra_state=dict,
            mesh=SimpleNamespace(size=lambda span: 1, extra_ranks=0),
        )  # fmt: skip
        checkpoints = Checkpoints(RunConfig.model_validate(values), engine, None, None)
        checkpoints._unsaved._clock = lambda: now[0]
        return checkpoints

    return made


def after(checkpoints: Checkpoints, step: int) -> Trouble:
    """What the trainer does after a step: agree, save where that is due. The thread is waited for."""
    trouble = checkpoints.trouble(step)
    checkpoints.react(trouble)
    if checkpoints.due(step):
        checkpoints.save(step, DataProgress(), 0)
    checkpoints._saver.ended()
    return trouble


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Inside, no file of this process may grow beyond `size` bytes; the test runner writes files too, right after a test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def _not_permitted(folder: Path) -> AbstractContextManager[None]:
    """A folder in which nobody may make anything; the superuser, whom permissions do not bind, is somebody else inside."""

    @contextmanager
    def fault() -> Iterator[None]:
        folder.chmod(0o555)
        mine = os.geteuid()
        if not mine:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(mine)
            folder.chmod(0o755)

    return fault()


def _full(folder: Path) -> AbstractContextManager[None]:
    """Files whose every write says that the device is full."""
    return _opened_as(lambda: Path("/dev/full"))


def _input_output_error(folder: Path) -> AbstractContextManager[None]:
    """Files that take every byte and cannot be made durable, as on a disk that fails."""

    def refused(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    @contextmanager
    def fault() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("megabiomed.checkpoint.tensorfile.os.fsync", refused)
            yield

    return fault()


@contextmanager
def _opened_as(place: Callable[[], Path]) -> Iterator[None]:
    """Inside, the tensors of a checkpoint are written to another place."""
    with pytest.MonkeyPatch.context() as patch:
        write = tensorfile.write_tensors
        patch.setattr("megabiomed.checkpoint.writer.write_tensors", lambda path, *more: write(place(), *more))
        yield


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_not_permitted, "Permission denied"),
        (_full, "No space left on device"),
        (_input_output_error, "Input/output error"),
    ],
)
def test_storage_that_refuses_for_a_while_costs_no_checkpoint_and_storage_that_refuses_for_long_ends_the_run(
    make: Callable[..., Checkpoints], tmp_path: Path, now: list[float],
    fault: Callable[[Path], AbstractContextManager[None]], said: str,
) -> None:  # fmt: skip
    checkpoints, folder = make(save_every=1, keep_last=9, max_unsaved_steps=6), tmp_path / "r" / "checkpoints"
    after(checkpoints, 1)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for first, began in ((2, 0.0), (20, 100.0)):
        with fault(folder):
            for step, passed in enumerate((0, 0, 2.5, 2.5, 7, 7), first):
                now[0] = began + passed
                after(checkpoints, step)
            failures = checkpoints.failures()
        assert [(failure["step"] - first, failure["again_s"]) for failure in failures] == [(0, 2), (2, 4), (4, 8)]
        assert all(said in failure["error"] for failure in failures)
        assert {file: file.read_bytes() for file in before} == before
        if first == 2:
            now[0] = 50
            assert after(checkpoints, 8) == Trouble.RETRY
            assert checkpoints.wait() is None
    with pytest.raises(SaveError, match=said):
        after(checkpoints, 27)
    kept, skipped = latest_valid(folder, "hash")
    assert (kept and kept.step, skipped) == (8, [])


def test_a_failed_save_is_tried_again_after_growing_pauses_with_the_newest_state(
    make: Callable[..., Checkpoints], tmp_path: Path, now: list[float]
) -> None:
    checkpoints = make(save_every=1, keep_last=9)
    assert after(checkpoints, 1) == Trouble.NONE
    with files_up_to(1000):
        assert [after(checkpoints, step) for step in (2, 3, 4)] == [Trouble.NONE, Trouble.WAIT, Trouble.WAIT]
        (failure,) = checkpoints.failures()
        assert (failure["step"], failure["at_risk"], failure["again_s"]) == (2, 1, 2)
        assert "File too large" in failure["error"]
        now[0] = 2.5
        assert [after(checkpoints, step) for step in (5, 6)] == [Trouble.RETRY, Trouble.WAIT]
        (failure,) = checkpoints.failures()
        assert (failure["step"], failure["at_risk"], failure["again_s"]) == (5, 4, 4)
        kept, _ = latest_valid(tmp_path / "r" / "checkpoints", "hash")
        assert kept is not None
        assert kept.step == 1
    now[0] = 99
    assert [after(checkpoints, step) for step in (7, 8)] == [Trouble.RETRY, Trouble.NONE]
    assert checkpoints.wait() is None
    assert checkpoints.committed() == [1, 7, 8]
    assert checkpoints.failures() == []


def test_the_run_ends_when_more_steps_are_unsaved_than_allowed_or_no_try_can_help(
    make: Callable[..., Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = make(save_every=1, max_unsaved_steps=2)
    with files_up_to(1000):
        assert [after(checkpoints, step) for step in (1, 2, 3)][-1] == Trouble.WAIT
        with pytest.raises(SaveError, match="step 1 was not written"):
            after(checkpoints, 4)
        at_once = make(save_every=1, max_unsaved_steps=0)
        after(at_once, 1)
        with pytest.raises(SaveError, match="File too large"):
            after(at_once, 2)
    defect = make(save_every=1)
    monkeypatch.setattr("megabiomed.checkpoint.commit.check_tiling", lambda tensors: 1 / 0)
    after(defect, 1)
    with pytest.raises(SaveError, match="ZeroDivisionError"):
        after(defect, 2)


def test_the_last_save_is_tried_some_times_and_then_ends_the_run(make: Callable[..., Checkpoints]) -> None:
    checkpoints, pauses = make(), []
    with files_up_to(1000), pytest.raises(SaveError, match="step 3 was not written"):  # noqa: PT012
        while True:
            checkpoints.save(3, DataProgress(), 0, last=True)
            pauses.append(checkpoints.wait())
    assert pauses == [2, 4, 8, 16, 32, 64, 120]
    assert len(pauses) == LAST_ATTEMPTS - 1


def test_slow_storage_does_not_hold_the_training_up_for_long_and_the_save_is_made_up_for(
    make: Callable[..., Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = make(save_every=2)
    gate, release = os.pipe()

    def slow(*arguments: Any) -> Any:
        os.read(gate, 1)
        return save_shards(*arguments)

    monkeypatch.setattr("megabiomed.checkpoint.commit.save_shards", slow)
    monkeypatch.setattr(saves, "SLOW_S", 0.05)
    begun = []
    for step in range(1, 6):
        checkpoints.react(checkpoints.trouble(step))
        begun.append(checkpoints.due(step) and checkpoints.save(step, DataProgress(), 0))
    assert begun == [False, True, False, False, False]
    assert [note["error"] for note in checkpoints.failures()] == ["the save before is still being written"]
    os.write(release, b"xx")
    checkpoints._saver.ended()
    after(checkpoints, 7)  # no step at which a save is due
    assert checkpoints.wait() is None
    assert checkpoints.committed() == [2, 7]


def test_a_run_without_room_for_a_checkpoint_is_refused_before_its_first_step(
    make: Callable[..., Checkpoints], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [Room(600_000, 100)]
    monkeypatch.setattr("megabiomed.checkpoint.space.room", lambda path, quotas: free[0])
    make().check_space()
    free[0] = Room(600_000, 3)
    with pytest.raises(
        SaveError, match=r"no room for a checkpoint: got .*: 3 files \(inodes\) are free, one more .* takes 14"
    ):
        make().check_space()
    free[0] = Room(400_000, 100, ", by the quota of user 7")
    with pytest.raises(
        SaveError, match=r"got Disk quota exceeded: 0\.4 MiB are free, by the quota of user 7, one more"
    ):
        make().check_space()
    free[0] = Room(400_000, None)
    with pytest.raises(
        SaveError, match=r"no room for a checkpoint: got .*0\.4 MiB are free, one more checkpoint takes"
    ):
        make().check_space()


def test_pauses_grow_to_a_bound_and_begin_anew_after_a_save() -> None:
    error = SaveError("x")
    error.passing = True
    unsaved, pauses = Unsaved(5, lambda: 0.0), []
    for step in range(1, 10):
        unsaved.failed(step, error)
        pauses.append(unsaved.pause_s)
    assert pauses == [2, 4, 8, 16, 32, 64, LONGEST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    assert [unsaved.trouble(step, False) for step in (6, 7)] == [Trouble.WAIT, Trouble.FATAL]
    unsaved.saved()
    assert unsaved.trouble(99, True) == Trouble.NONE
    unsaved.failed(99, error)
    assert unsaved.pause_s == 2


def test_lines_that_a_full_disk_refused_are_in_the_file_once_and_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = LocalFiles(tmp_path)
    for step, size in enumerate((4096, 110, 70, 4096, 150)):
        with files_up_to(size):
            files.metrics({"train/loss": 1.0}, step)
    files.finish()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(5))
    assert "File too large" in capsys.readouterr().err
