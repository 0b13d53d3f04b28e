"""A run with a history never starts over by itself, and a start that was taken over writes nothing more."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.checkpoints import state
from support.runs import RUN, events

from megabiomed.checkpoint.commit import CheckpointWriter
from megabiomed.checkpoint.fence import Fence
from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.manifest import CONFIG, TRAINER
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.config import RunConfig, load_config, to_yaml
from megabiomed.ground.errors import CheckpointError, DataError
from megabiomed.processes.ranks import VERDICT
from megabiomed.runs.checkpointing import choose, inherited
from megabiomed.runs.effective import keep
from megabiomed.runs.history import check_fresh, read_events, run_steps, saved_step
from megabiomed.runs.kinds import read_run
from megabiomed.runs.metrics import Reporter
from megabiomed.runs.tracking import LocalFiles

Command = Callable[..., subprocess.CompletedProcess[str]]
Harm = Callable[[Path], object]
WEIGHTS = {"param": torch.ones(4)}


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "model" / "rank_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(checkpoint: Path) -> None:
    with (checkpoint / TRAINER).open("ab") as file:
        file.write(b" ")


def lead_nowhere(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.symlink_to(checkpoint.parent / "elsewhere")


HARMS: dict[str, Harm] = {
    "config.yaml": lambda checkpoint: (checkpoint / CONFIG).unlink(),
    "bytes": lengthen,
    "bytes instead of": truncate,
    "manifest": lambda checkpoint: (checkpoint / "manifest.json").write_text("{"),
    "step_00000020": lead_nowhere,
}


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run folder with committed checkpoints of steps 10 and 20."""
    file = tmp_path / "run.yaml"
    file.write_text(RUN.replace("CORPUS", str(tmp_path)))
    return load_config(file, [f"run_dir={tmp_path / 'r'}"])


@pytest.fixture
def saved(config: RunConfig) -> Path:
    folder = config.folder / "checkpoints"
    for step in (10, 20):
        CheckpointWriter(folder).save(step, [Fragment(Box.whole("w", (4,)), WEIGHTS)], state(expected=None))
    return folder


@pytest.mark.parametrize("reason", HARMS)
def test_a_run_whose_checkpoints_all_fail_their_check_is_refused_with_the_reason_of_each(
    config: RunConfig, saved: Path, reason: str
) -> None:
    for checkpoint in saved.iterdir():
        HARMS[reason](checkpoint)
    with pytest.raises(CheckpointError, match="not started over") as refused:
        choose(config)
    assert reason in str(refused.value)
    assert "step_00000010" in str(refused.value)


def test_one_whole_checkpoint_is_enough_to_go_on(config: RunConfig, saved: Path) -> None:
    truncate(saved / "step_00000020")
    point = choose(config)
    assert point.checkpoint is not None
    assert point.checkpoint.step == 10
    assert [path.name for path, _ in point.skipped] == ["step_00000020"]


def test_a_folder_that_was_never_committed_is_no_history(config: RunConfig, saved: Path) -> None:
    for checkpoint in saved.iterdir():
        (checkpoint / COMMITTED).unlink()
    assert choose(config).checkpoint is None


@pytest.mark.parametrize("told", ["save", "resume", "stopped", "finished"])
def test_checkpoints_that_are_gone_are_missed_where_events_speak_of_them(tmp_path: Path, told: str) -> None:
    lines = [{"event": "start", "step": 0}, {"event": told, "step": 20}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "sa')
    assert saved_step(tmp_path) == 20
    with pytest.raises(CheckpointError, match="speak of step 20"):
        check_fresh(tmp_path, [])


def test_a_start_that_died_before_its_first_save_begins_again(tmp_path: Path) -> None:
    lines = [{"event": "start", "step": 0}, {"event": "warning", "what": "x"}, {"event": "failed", "step": 7}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    check_fresh(tmp_path, [])


@pytest.mark.parametrize("told", [None, "", "{not"])
def test_figures_without_events_are_a_history(tmp_path: Path, told: str | None) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 2.0}\n')
    if told is not None:
        (tmp_path / "events.jsonl").write_text(told)
    with pytest.raises(CheckpointError, match="holds steps, but"):
        check_fresh(tmp_path, [])
    (tmp_path / "events.jsonl").write_text('{"event": "start", "step": 0}\n')
    check_fresh(tmp_path, [])


def test_a_link_to_checkpoints_that_are_not_mounted_is_missed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").symlink_to(tmp_path / "storage")
    with pytest.raises(CheckpointError, match="storage"):
        check_fresh(tmp_path, [])


def test_what_fails_its_check_is_moved_aside_and_kept_when_its_step_is_saved_again(saved: Path) -> None:
    lengthen(saved / "step_00000020")
    writer = CheckpointWriter(saved)
    for step in (20, 30, 40):
        writer.save(step, [Fragment(Box.whole("w", (4,)), WEIGHTS)], state(expected=None))
    writer.prune(keep_last=1)
    aside = [path for path in saved.iterdir() if path.name.startswith("step_00000020.old-")]
    assert len(aside) == 1
    assert (aside[0] / "model" / "rank_00000.safetensors").is_file()
    assert sorted(path.name for path in saved.iterdir() if path not in aside) == ["step_00000040"]


def test_a_start_that_was_taken_over_tells_nobody_anything(config: RunConfig) -> None:
    mine = Fence.claim(config.folder)
    reporter = Reporter(config, True, 1, 10)
    reporter.hold(mine)
    reporter.event("start", step=0)
    reporter.validation(1, 2.0, 10)
    Fence.claim(config.folder)
    reporter.event("failed", step=1)
    reporter.finish("FAILED")
    with pytest.raises(CheckpointError, match="taken over"):
        reporter.validation(2, 2.0, 10)
    assert [event["event"] for event in events(config.folder)] == ["start"]
    assert len((config.folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_ranks_keep_the_claim_of_their_batch_script_and_take_no_run_back(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank can sleep between its script's claim and the moment at which it would claim the run itself."""
    monkeypatch.setenv(VERDICT, str(config.folder / "slurm" / "verdicts" / "7.0.1800000000.json"))
    script = Fence.claim(config.folder, "7.0")
    assert inherited(config) == script
    assert inherited(config.model_copy(update={"run_dir": config.folder / "other"})) is None
    Fence.claim(config.folder, "7.1")
    with pytest.raises(CheckpointError, match=r"taken over by a later start.*fence of 7\.1-.*expected 7\.0"):
        inherited(config)
    monkeypatch.delenv(VERDICT)
    assert inherited(config) is None


def test_an_event_that_a_start_adds_after_its_successor_began_is_not_read(config: RunConfig) -> None:
    files = [LocalFiles(config.folder) for _ in range(2)]
    for each in files:
        each.hold(Fence.claim(config.folder))
    files[0].event("start", {"step": 0})
    files[1].event("resume", {"step": 20})
    files[0].event("finished", {"step": 90})  # it froze after its look at the fence
    assert [event["event"] for event in read_events(config.folder)] == ["start", "resume"]
    assert saved_step(config.folder) == 20


def test_steps_have_the_samples_that_the_events_tell_of(config: RunConfig) -> None:
    """A restart with other batches, steps that an earlier release told without them, and a run that begins late."""
    assert run_steps(config).attempts(3)[0].first == 2 * config.data.global_batch_size
    file = LocalFiles(config.folder)
    file.event("resume", {"step": 100, "sample": 0})
    file.event("spike", {"step": 108})
    file.event("resume", {"step": 104, "sample": 32, "global_batch_size": 3})
    file.event("rewind", {"step": 107, "to_step": 104, "sample": 41})
    steps = run_steps(config)
    assert [(held.first, held.size) for held in steps.attempts(105)] == [(32, 8), (32, 3), (41, 3)]
    assert [held.first for held in steps.attempts(108)] == [56, 50]
    with pytest.raises(DataError, match="step 100 was not computed by this run: got it begins after step 100"):
        steps.choose(100)


def test_claims_are_numbered_upwards_though_the_fence_is_removed_or_the_clock_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Fence.claim(tmp_path)
    (tmp_path / "fence.json").unlink()
    monkeypatch.setattr("time.time", lambda: first.number + 10)
    second = Fence.claim(tmp_path)
    monkeypatch.setattr("time.time", lambda: 5)
    numbers = [first.number, second.number, Fence.claim(tmp_path).number]
    assert numbers == sorted(set(numbers))


def test_fence_on_storage_that_is_away_for_a_moment_does_not_end_the_training(config: RunConfig) -> None:
    mine = Fence.claim(config.folder)
    (config.folder / "fence.json").unlink()
    assert not mine.taken_over()


@pytest.mark.timeout(240)
def test_the_command_leaves_old_work_alone(run_file: Path, command: Command, tmp_path: Path) -> None:
    words = ("pretrain", run_file, f"run_dir={tmp_path / 'r'}", "parallel.tensor_parallel_size=1")
    command(*words, "train.stop_after=2")
    (tmp_path / "r" / "checkpoints" / "step_00000002" / CONFIG).unlink()
    before = sorted((tmp_path / "r").rglob("*"))
    refused = command(*words, code=2)
    assert "not started over" in refused.stderr
    assert [path for path in before if not path.exists()] == []
    shutil.rmtree(tmp_path / "r" / "checkpoints")
    assert "speak of step 2" in command(*words, code=2).stderr


@pytest.mark.parametrize("how", ["rename", "copy"])
def test_a_run_that_was_moved_or_copied_is_not_begun_again_in_its_old_place(how: str, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    (tmp_path / "run.yaml").write_text(RUN.replace("CORPUS", "corpus") + f"run_dir: {old}\n")
    Fence.claim(old)
    keep(read_run(str(tmp_path / "run.yaml"), []))
    stored = read_run(str(old / CONFIG), [])
    new.parent.mkdir()
    shutil.copytree(old, new)
    if how == "rename":
        shutil.rmtree(old)
    with pytest.raises(CheckpointError, match=rf"moved or copied: got run folder {old}, .* add run_dir={new} to go on"):
        read_run(str(new / CONFIG), ["train.steps=9"])
    assert read_run(str(new / CONFIG), [f"run_dir={new}"]).folder == new
    assert read_run(str(new / CONFIG), ["name=another", "run_dir=null"]).folder == Path("runs/another")
    (new / CONFIG).write_text(
        to_yaml(stored.model_copy(update={"run_dir": None}))
    )  # the default is below the current folder
    with pytest.raises(CheckpointError, match="moved or copied"):
        read_run(str(new / CONFIG), [])
