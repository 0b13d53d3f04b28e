"""What a path is, from names and small files; what cannot be used is refused in one form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.locate import locate, stages_of
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.state import TrainerState
from megabiomed.checkpoint.uses import ALIGNED, MODEL, OWN_FOLDER, SAVED, Kind
from megabiomed.ground.errors import CheckpointError

ALIGNMENT = yaml.safe_dump({"name": "a", "align": {"stages": [{"name": "second"}, {"name": "first"}]}})


def save(run: Path, step: int, stage: str | None = None) -> Path:
    state = RunState(TrainerState(stage=stage), {}, ALIGNMENT if stage else "name: t\n")
    return CheckpointWriter(run / "checkpoints").save(step, [], state)


def aligned(folder: Path) -> Path:
    """Two stages: trained in an order that is not the one of their names."""
    for stage, step in (("first", 4), ("second", 9)):
        save(folder / stage, step, stage)
    return folder


def test_a_run_its_folder_of_checkpoints_and_a_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "r", 1)
    newest = save(tmp_path / "r", 2)
    for path in (tmp_path / "r", tmp_path / "r/checkpoints"):
        found = locate(path)
        assert (found.kind, found.run, found.stage) == (Kind.RUN, tmp_path / "r", None)
        assert [each.name for each in found.checkpoints()] == ["step_00000002", "step_00000001"]
        assert found.open().path.name == newest.name
    one = locate(tmp_path / "r/checkpoints/step_00000001")
    assert (one.kind, one.run, one.config) == (Kind.CHECKPOINT, tmp_path / "r", one.path / "config.yaml")
    assert (one.checkpoints(), one.open(hashes=True).step) == ([one.path], 1)


def test_an_alignment_means_its_last_stage_with_a_checkpoint(tmp_path: Path) -> None:
    run = aligned(tmp_path / "a")
    found = locate(run)
    assert (found.kind, found.run, stages_of(run)) == (Kind.ALIGNMENT, run, ["second", "first"])
    assert [each.parent.parent.name for each in found.checkpoints()] == ["first", "second"]
    assert found.open().step == 4
    stage = locate(run / "second")
    assert (stage.kind, stage.stage, stage.open().step) == (Kind.STAGE, "second", 9)
    checkpoint = locate(run / "second/checkpoints/step_00000009")
    assert (checkpoint.kind, checkpoint.stage, checkpoint.run) == (Kind.STAGE_CHECKPOINT, "second", run / "second")
    (run / "first/checkpoints/step_00000004" / COMMITTED).unlink()
    assert locate(run).open().step == 9


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    save(tmp_path / "r", 1)
    (save(tmp_path / "r", 2) / "trainer.json").write_text("{")
    found = locate(tmp_path / "r")
    assert (found.kind, found.open().step) == (Kind.RUN, 1)
    for path in found.checkpoints():
        (path / COMMITTED).unlink()
    with pytest.raises(CheckpointError, match="there is no valid checkpoint in"):
        found.open()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["config.json", "model.safetensors"], Kind.HUGGING_FACE),
        (["config.json", "alignment.json"], Kind.EXPORT),
        (["adapter_config.json"], Kind.ADAPTER),
        (["tokens.idx", "manifest.json"], Kind.TOKEN_STORE),
        (["records.arrow", "manifest.json"], Kind.ANSWER_STORE),
        (["train/tokens.idx"], Kind.CORPUS),
        (["model/rank_00000.safetensors"], Kind.CHECKPOINT),
        (["metrics.jsonl"], Kind.RUN),
        (["slurm/job.json"], Kind.RUN),
        (["one/checkpoints/x", "two/stage/checkpoints/x"], Kind.RUNS),
        (["notes.txt"], Kind.FOLDER),
        ([], Kind.FOLDER),
    ],
)
def test_a_folder_is_known_by_its_files(tmp_path: Path, files: list[str], kind: Kind) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    assert locate(tmp_path).kind == kind


def test_a_run_that_has_not_saved_yet_is_known_by_its_configuration(tmp_path: Path) -> None:
    for folder, kind in (("a", Kind.ALIGNMENT), ("a/second", Kind.RUN)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.yaml").write_text(ALIGNMENT)
        assert locate(tmp_path / folder).kind == kind
        with pytest.raises(CheckpointError, match="without a checkpoint; wait for the first save"):
            locate(tmp_path / folder).checkpoints()


@pytest.mark.parametrize("name", ["nothing", "x" * 300, "nul\0"])
def test_a_path_where_nothing_is(tmp_path: Path, name: str) -> None:
    assert locate(tmp_path / name).kind == Kind.MISSING


def test_damaged_small_files_do_not_stop_the_look(tmp_path: Path) -> None:
    run = aligned(tmp_path / "a")
    (run / "config.yaml").write_bytes(b"\xff\x00")
    for file in run.glob("*/checkpoints/*/config.yaml"):
        file.write_text("[")
    assert locate(run).kind == Kind.RUNS
    (save(tmp_path / "r", 1) / "trainer.json").write_text(json.dumps([1]))
    assert locate(tmp_path / "r").kind == Kind.RUN


def test_what_cannot_be_used_says_what_it_is_and_what_would_do(tmp_path: Path) -> None:
    run, plain = aligned(tmp_path / "a"), tmp_path / "r"
    save(plain, 1)
    (tmp_path / "store").mkdir()
    (tmp_path / "store/tokens.idx").touch()

    def refused(path: Path, use: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            locate(path).expect(use)
        return str(caught.value).removeprefix(f"{path} is ")

    model = "expected a run folder, a checkpoint or a Hugging Face folder"
    assert refused(tmp_path / "store", MODEL) == f"a token store: {model}; give the run that was trained on it"
    assert refused(tmp_path / "gone", MODEL) == f"no file or folder: {model}; check the path"
    assert refused(tmp_path, SAVED).endswith("name one of them (a, r)")
    assert refused(run, OWN_FOLDER).endswith("name one of its stages (second, first)")
    assert refused(plain, ALIGNED).startswith("a run folder: expected an alignment run")
    assert locate(run).expect(MODEL) == locate(run)
