"""Training goes on while a checkpoint is written, and the checkpoint does not notice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from megabiomed.checkpoint.background import BackgroundSaver
from megabiomed.checkpoint.commit import CheckpointWriter
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.tensorfile import write_tensors
from megabiomed.checkpoint.writer import save_shards
from megabiomed.ground.errors import CheckpointError, CorruptionError

WHOLE = Box.whole("w", (4, 4))


@pytest.fixture
def run(world: Any) -> Any:
    return world.state(expected=None)


def test_the_values_of_the_moment_are_saved_not_those_of_later_steps(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on = threading.Event()

    def late(*arguments: Any) -> Any:
        assert trained_on.wait(60)
        return write_tensors(*arguments)

    monkeypatch.setattr("megabiomed.checkpoint.writer.write_tensors", late)
    weights = torch.ones(4, 4)
    committed: list[Path] = []
    saver = BackgroundSaver(CheckpointWriter(tmp_path), committed.append)
    saver.save(1, [Fragment(WHOLE, {"param": weights})], run)
    weights.fill_(2)
    run.trainer.data.identity["seed"] = -1
    trained_on.set()
    saver.save(2, [Fragment(WHOLE, {"param": weights})], run)
    saver.wait()
    assert committed == [tmp_path / "step_00000001", tmp_path / "step_00000002"]
    first, second = (Checkpoint.open(path) for path in committed)
    assert torch.equal(first.read(WHOLE), torch.ones(4, 4))
    assert torch.equal(second.read(WHOLE), torch.full((4, 4), 2.0))
    assert (first.trainer.tokens_consumed, first.trainer.data.identity) == (4096, {})


def test_a_save_that_failed_is_reported_once_by_the_next_call(tmp_path: Path, run: Any) -> None:
    saver = BackgroundSaver(CheckpointWriter(tmp_path))
    saver.save(1, [Fragment(WHOLE, {"param": torch.ones(3)})], run)
    with pytest.raises(CheckpointError, match="step 1 was not written"):
        saver.save(2, [Fragment(WHOLE, {"param": torch.ones(4, 4)})], run)
    saver.wait()
    assert not list(tmp_path.iterdir())


def test_a_copy_that_changes_in_memory_before_it_is_hashed_is_never_committed(
    tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURMD_NODENAME", "n7")
    saver = BackgroundSaver(CheckpointWriter(tmp_path))
    state = Fragment(WHOLE, {"param": torch.ones(4, 4), "exp_avg": torch.zeros(4, 4, dtype=torch.bfloat16)})
    saver.save(1, [state], run)
    saver.wait()

    def damaged(folder: Path, rank: int, fragments: list[Fragment]) -> Any:
        fragments[0].views["exp_avg"].view(torch.int16)[2, 3] ^= 1  # the smallest bit of one number
        return save_shards(folder, rank, fragments)

    monkeypatch.setattr("megabiomed.checkpoint.commit.save_shards", damaged)
    saver.save(2, [state], run)
    with pytest.raises(CorruptionError, match="step 2 was not written: its copy in memory was damaged on n7") as found:
        saver.wait()
    assert found.value.nodes == ("n7",)
    assert "w" in str(found.value.got)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    assert torch.equal(Checkpoint.open(tmp_path / "step_00000001", "hash").read(WHOLE), torch.ones(4, 4))
