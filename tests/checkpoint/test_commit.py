"""A checkpoint is there whole or not at all, whoever fails and whenever."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.commit import CheckpointWriter
from megabiomed.checkpoint.fence import Fence, default_owner
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.manifest import MANIFEST
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState
from megabiomed.checkpoint.tensorfile import write_tensors
from megabiomed.data.progress import DataProgress
from megabiomed.ground.errors import CheckpointError, SaveError
from megabiomed.ground.files import write_atomic_at

SHAPE = (6, 4)


def fragments(value: float) -> list[Fragment]:
    views = {"param": torch.full(SHAPE, float(value)), "exp_avg": torch.full(SHAPE, -float(value))}
    return [Fragment(Box.whole("w", SHAPE), views)]


def held(path: Path) -> float:
    """The value that a checkpoint of `fragments` holds, after a check of all hashes."""
    values = Checkpoint.open(path, "hash").read(Box.whole("w", SHAPE))
    assert bool((values == values[0, 0]).all())
    return float(values[0, 0])


@pytest.fixture
def run(world: Any) -> Any:
    return world.state(expected={"w": SHAPE})


def test_the_folder_holds_what_its_documentation_says(tmp_path: Path, run: Any, world: Any) -> None:
    (tmp_path / "source.model").write_bytes(b"pieces")
    path = CheckpointWriter(tmp_path / "ck").save(
        120, fragments(1), world.state(expected=None, tokenizer=tmp_path / "source.model")
    )
    found = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    shards = ["model/rank_00000.safetensors", "optimizer/rank_00000.safetensors"]
    assert found == sorted([COMMITTED, "config.yaml", MANIFEST, *shards, "tokenizer/tokenizer.model", "trainer.json"])
    manifest = json.loads((path / MANIFEST).read_text())
    assert set(manifest["files"]) == set(found) - {COMMITTED, MANIFEST}
    assert Checkpoint.open(path, "hash").tokenizer == path / "tokenizer/tokenizer.model"
    assert [item.name for item in (tmp_path / "ck").iterdir()] == ["step_00000120"]


def test_everything_is_on_disk_before_the_marker_is(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power loss keeps only what was synced, so each file and folder must have been, under any of its names."""
    synced: list[tuple[int, str]] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    path = CheckpointWriter(tmp_path).save(5, fragments(1), run)
    marker = next(i for i, (inode, _) in enumerate(synced) if inode == (path / COMMITTED).stat().st_ino)
    before = {inode for inode, _ in synced[:marker]}
    assert {item.stat().st_ino for item in [path, *path.rglob("*")] if item.name != COMMITTED} <= before
    assert synced[marker - 1][1] == str(tmp_path)
    assert synced[marker + 1][1] == str(path)


def test_killed_at_any_file_operation_the_newest_complete_checkpoint_survives(
    tmp_path: Path, run: Any, world: Any
) -> None:
    writer = CheckpointWriter(tmp_path)
    writer.save(10, fragments(1), run)
    finished, deaths = False, 0
    while not finished:
        finished = world.run_and_die(lambda: CheckpointWriter(tmp_path).save(20, fragments(2), run), deaths)
        latest, _ = latest_valid(tmp_path, "hash")
        assert latest is not None
        assert (latest.step, held(latest.path)) in ((10, 1.0), (20, 2.0))
        deaths += not finished
    assert deaths > 15
    assert held(tmp_path / "step_00000020") == 2.0


def test_killed_while_a_step_is_saved_again_one_of_both_survives(tmp_path: Path, run: Any, world: Any) -> None:
    CheckpointWriter(tmp_path).save(20, fragments(1), run)
    finished, deaths = False, 0
    while not finished:
        finished = world.run_and_die(lambda: CheckpointWriter(tmp_path).save(20, fragments(2), run), deaths)
        latest, _ = latest_valid(tmp_path, "hash")
        assert latest is not None
        assert held(latest.path) in (1.0, 2.0)
        deaths += not finished
    assert deaths > 15
    assert held(tmp_path / "step_00000020") == 2.0


def test_a_rank_that_fails_stops_all_and_leaves_no_trace(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *arguments: Any) -> Any:
        if path.name == "rank_00001.safetensors":
            raise OSError(28, "No space left on device")
        return write_tensors(path, *arguments)

    monkeypatch.setattr("megabiomed.checkpoint.writer.write_tensors", full)
    ranks = world.cut_world(world.MODEL, 2, [0.5])
    world.fill(ranks, world.random_truth())
    found = world.save_world(tmp_path, 5, ranks, world.state())
    for error in found:
        with pytest.raises(CheckpointError, match=r"not written: rank 1 failed: got OSError: .*No space left"):
            raise error
    assert not list(tmp_path.iterdir())


def test_a_part_that_nobody_saved_is_found_before_the_commit(tmp_path: Path, world: Any) -> None:
    ranks = world.cut_world(world.MODEL, 2, [0.5])
    world.fill(ranks, world.random_truth())
    lost = next(f for f in ranks[3] if f.box.name.endswith("down_proj.weight"))
    lost.owner = False
    errors = world.save_world(tmp_path, 5, ranks, world.state())
    assert all(isinstance(error, CheckpointError) for error in errors)
    assert f"no rank saved exp_avg of {lost.box}" in str(errors[0])
    assert list_checkpoints(tmp_path) == []


def test_a_part_that_two_ranks_saved_is_found_before_the_commit(tmp_path: Path, world: Any) -> None:
    ranks = world.cut_world(world.MODEL, 2, [])
    world.fill(ranks, world.random_truth())
    for fragment in ranks[1]:
        fragment.owner = True
    errors = world.save_world(tmp_path, 5, ranks, world.state())
    assert "saved by two ranks" in str(errors[0])


@pytest.mark.parametrize(
    ("expected", "message"),
    [({"w": SHAPE, "v": (3,)}, r"no rank saved some tensors.*'v'"), ({"w": (6, 5)}, "another shape than the model")],
)
def test_a_checkpoint_without_the_whole_model_is_not_committed(
    tmp_path: Path, world: Any, expected: Any, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointWriter(tmp_path).save(5, fragments(1), world.state(expected=expected))
    assert list_checkpoints(tmp_path) == []


def test_a_trainer_state_that_json_cannot_hold_is_an_error_on_every_rank(tmp_path: Path, world: Any) -> None:
    ranks = world.cut_world(world.MODEL, 1, [0.5])
    errors = world.save_world(
        tmp_path, 5, ranks, world.state(trainer=TrainerState(data=DataProgress(identity={"rng": torch.zeros(2)})))
    )
    assert [type(error) for error in errors] == [SaveError, SaveError]
    assert "Tensor" in str(errors[1])


def test_saving_a_step_twice_writes_it_once(tmp_path: Path, run: Any) -> None:
    writer = CheckpointWriter(tmp_path)
    path = writer.save(5, fragments(1), run)
    before = (path / MANIFEST).stat().st_mtime_ns
    assert writer.save(5, fragments(1), run) == path
    assert (path / MANIFEST).stat().st_mtime_ns == before


def test_a_step_of_an_earlier_start_is_replaced(tmp_path: Path, run: Any) -> None:
    CheckpointWriter(tmp_path).save(5, fragments(1), run)
    path = CheckpointWriter(tmp_path).save(5, fragments(2), run)
    assert held(path) == 2.0
    assert [item.name for item in tmp_path.iterdir()] == ["step_00000005"]


def test_a_writer_whose_run_was_taken_over_commits_nothing(tmp_path: Path, run: Any) -> None:
    zombie = CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.0"))
    zombie.save(5, fragments(1), run)
    fresh = CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.1"))
    with pytest.raises(CheckpointError, match=r"taken over by a later start.*job7\.1-.*expected job7\.0-"):
        zombie.save(6, fragments(2), run)
    assert fresh.save(6, fragments(3), run).name == "step_00000006"
    assert Checkpoint.open(tmp_path / "ck" / "step_00000006").manifest.writer.startswith("job7.1-")


def test_a_run_taken_over_while_the_ranks_write_is_not_committed(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.0"))

    def slow(path: Path, *arguments: Any) -> Any:
        Fence.claim(tmp_path, "job7.1")
        return write_tensors(path, *arguments)

    monkeypatch.setattr("megabiomed.checkpoint.writer.write_tensors", slow)
    with pytest.raises(CheckpointError, match="taken over"):
        writer.save(5, fragments(1), run)
    assert list_checkpoints(tmp_path / "ck") == []


@pytest.mark.parametrize("replaced", [False, True], ids=["still there", "replaced by the later start"])
def test_a_writer_that_slept_before_the_marker_marks_nothing(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """Both checks of the fence passed, then the process froze for as long as a later start needed to save the step."""
    zombie = CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.0"))

    def wake_up_late(directory: int, name: str, data: bytes | str) -> None:
        if name == COMMITTED and not later:
            later.append(CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.1")))
            if replaced:
                later[0].save(5, fragments(2), run)
        write_atomic_at(directory, name, data)

    later: list[CheckpointWriter] = []
    monkeypatch.setattr("megabiomed.checkpoint.commit.write_atomic_at", wake_up_late)
    if replaced:
        with pytest.raises(CheckpointError, match="No such file"):
            zombie.save(5, fragments(1), run)
    else:
        zombie.save(5, fragments(1), run)
    assert held(tmp_path / "ck" / "step_00000005") == (2.0 if replaced else 1.0)
    assert later[0].save(6, fragments(3), run) == tmp_path / "ck" / "step_00000006"


def test_a_run_taken_over_between_rename_and_marker_keeps_the_older_folder_of_the_step(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    CheckpointWriter(tmp_path / "ck").save(5, fragments(1), run)
    zombie = CheckpointWriter(tmp_path / "ck", fence=Fence.claim(tmp_path, "job7.0"))

    def taken_over(folder: Path) -> None:
        if folder == tmp_path / "ck":
            Fence.claim(tmp_path, "job7.1")

    monkeypatch.setattr("megabiomed.checkpoint.commit.fsync_directory", taken_over)
    with pytest.raises(CheckpointError, match="taken over"):
        zombie.save(5, fragments(2), run)
    latest, skipped = latest_valid(tmp_path / "ck", "hash")
    assert latest is not None
    assert held(latest.path) == 1.0
    assert "is not committed" in skipped[0][1]


def test_the_owner_is_the_slurm_job_and_its_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert default_owner() == "4711.2"
    monkeypatch.delenv("SLURM_JOB_ID")
    assert "4711" not in default_owner()
