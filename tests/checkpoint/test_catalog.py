"""The newest checkpoint that can be trusted is found, and retention never removes the last of them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints, prune
from megabiomed.checkpoint.commit import CheckpointWriter
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.ground.files import remove_tree


@pytest.fixture
def folder(tmp_path: Path, world: Any) -> Path:
    for step in range(10, 70, 10):
        fragments = [Fragment(Box.whole("w", (4,)), {"param": torch.full((4,), float(step))})]
        CheckpointWriter(tmp_path).save(step, fragments, world.state(expected=None))
    return tmp_path


def steps(folder: Path) -> list[int]:
    return [item.step for item in list_checkpoints(folder)]


def damage(path: Path) -> None:
    file = path / "model" / "rank_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _opens(path: Path) -> bool:
    return Checkpoint.open(path, "hash").path == path


def test_no_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert latest_valid(tmp_path / "none") == (None, [])


def test_damaged_and_unfinished_checkpoints_are_passed_over_with_their_reason(folder: Path) -> None:
    damage(folder / "step_00000060")
    (folder / "step_00000050" / COMMITTED).unlink()
    (folder / "step_00000070.tmp-abc").mkdir()
    (folder / "notes").mkdir()
    found, skipped = latest_valid(folder)
    assert found is not None
    assert found.step == 40
    assert [path.name for path, _ in skipped] == ["step_00000060", "step_00000050"]
    assert "bytes instead of" in skipped[0][1]
    assert "not committed" in skipped[1][1]


def test_a_flipped_bit_is_found_when_hashes_are_asked_for(folder: Path) -> None:
    file = folder / "step_00000060" / "model" / "rank_00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 0x10
    file.write_bytes(data)
    by_size, by_hash = latest_valid(folder, "size")[0], latest_valid(folder, "hash")[0]
    assert by_size is not None
    assert by_hash is not None
    assert (by_size.step, by_hash.step) == (60, 50)


def test_retention_keeps_the_newest_and_every_nth(folder: Path) -> None:
    removed = prune(folder, keep_last=2, keep_every=30, live_token="me")
    assert steps(folder) == [60, 50, 30]
    assert sorted(path.name for path in removed) == ["step_00000010", "step_00000020", "step_00000040"]


def test_damaged_checkpoints_do_not_take_the_place_of_valid_ones(folder: Path) -> None:
    damage(folder / "step_00000060")
    damage(folder / "step_00000040")
    prune(folder, keep_last=2, keep_every=0, live_token="me")
    assert steps(folder) == [60, 50, 40, 30]


def test_fewer_than_asked_for_are_all_kept(folder: Path) -> None:
    assert prune(folder, keep_last=9, keep_every=0, live_token="me") == []
    assert len(steps(folder)) == 6


def test_what_dead_writers_left_goes_and_the_live_one_is_spared(folder: Path) -> None:
    for name in ("step_00000070.tmp-dead", "step_00000080.tmp-me", "other.tmp-dead"):
        (folder / name / "model").mkdir(parents=True)
    removed = prune(folder, keep_last=9, keep_every=0, live_token="me")
    assert [path.name for path in removed] == ["step_00000070.tmp-dead"]


def test_a_replaced_checkpoint_counts_until_its_successor_is_complete(folder: Path) -> None:
    (folder / "step_00000060").rename(folder / "step_00000060.old-x")
    (folder / "step_00000060").mkdir()
    found, skipped = latest_valid(folder)
    assert found is not None
    assert (found.path.name, len(skipped)) == ("step_00000060.old-x", 1)
    prune(folder, keep_last=9, keep_every=0, live_token="me")
    assert found.path.is_dir()
    (folder / "step_00000060").rmdir()
    found.path.rename(folder / "step_00000060")
    shutil.copytree(folder / "step_00000060", folder / "step_00000060.old-x")
    removed = prune(folder, keep_last=9, keep_every=0, live_token="me")
    assert [path.name for path in removed] == ["step_00000060.old-x"]


def test_a_folder_that_cannot_be_removed_is_logged_and_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def busy(path: Path) -> None:
        if path.name == "step_00000020":
            raise OSError(16, "Device or resource busy")
        remove_tree(path)

    with monkeypatch.context() as patched:
        patched.setattr("megabiomed.checkpoint.catalog.remove_tree", busy)
        assert len(prune(folder, keep_last=1, keep_every=0, live_token="me")) == 4
    assert "step_00000020 could not be removed" in caplog.text
    assert steps(folder) == [60, 20]
    assert [path.name for path in prune(folder, keep_last=1, keep_every=0, live_token="me")] == ["step_00000020"]


def test_a_removal_that_is_interrupted_leaves_nothing_to_resume_from(folder: Path, world: Any) -> None:
    finished, deaths = False, 0
    while not finished:
        finished = world.run_and_die(lambda: prune(folder, 1, 0, "me"), deaths)
        deaths += not finished
        found, skipped = latest_valid(folder, "hash")
        assert found is not None
        assert (found.step, skipped) == (60, [])
        assert all(_opens(item.path) for item in list_checkpoints(folder) if item.committed)
    assert deaths > 3
    assert steps(folder) == [60]
