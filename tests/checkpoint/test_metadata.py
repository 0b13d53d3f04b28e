"""Metadata of checkpoints are typed, bounded and compared with each other, and one bad folder hides no other."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from megabiomed.checkpoint.catalog import latest_valid
from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.manifest import CONFIG, MANIFEST, TRAINER
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.state import TrainerState, read_state
from megabiomed.doctor.cli import checkpoint_app
from megabiomed.ground.errors import CheckpointError, MegabiomedError
from megabiomed.ground.files import sha256_file, write_json

VALUES = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**200, 0.5, 1e308, "", "5", "step", "..", "/etc/passwd", "\ud800", "x" * 5000,
    [], {}, [[]], {"": None}, [1] * 3, {"global_step": 7},
]  # fmt: skip
COMMANDS = ["inspect PATH", "inspect PATH --topology tp=2", "inspect PATH --json", "verify PATH",
            "export-hf PATH OUT --dry-run --no-check", "diff PATH PATH"]  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path, world: Any) -> Path:
    ranks = world.cut_world(world.MODEL, 1, [])
    world.fill(ranks, world.random_truth())
    path: Path = world.save_world(tmp_path / "run" / "checkpoints", 20, ranks, world.state())[0]
    return path


def vouch(folder: Path, change: Callable[[Any], Any] = lambda manifest: manifest) -> None:
    """Make the manifest agree with the files and the marker with the manifest, as whoever can write there could."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name, record in manifest["files"].items():
        record |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    (folder / MANIFEST).write_text(json.dumps(change(manifest)))
    write_json(folder / COMMITTED, {"manifest_sha256": sha256_file(folder / MANIFEST)})


def mutated(rng: random.Random, value: Any) -> Any:
    """A copy of a JSON value with one place changed, taken away, added or repeated."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return rng.choice(VALUES)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    copy = value.copy()
    how = rng.random()
    if how < 0.15:
        del copy[key]
    elif how < 0.25 and isinstance(copy, dict):
        copy[rng.choice(["new", "", "version"])] = rng.choice(VALUES)
    else:
        copy[key] = mutated(rng, value[key])
    return copy


def test_whatever_stands_in_the_metadata_no_command_ends_in_a_traceback(saved: Path, tmp_path: Path) -> None:
    original = {name: (saved / name).read_bytes() for name in (TRAINER, MANIFEST, COMMITTED, CONFIG)}
    rng = random.Random(5)
    refused = 0
    runner = CliRunner()
    for number in range(90):
        for name, content in original.items():
            (saved / name).write_bytes(content)
        if number % 3 == 0:
            (saved / TRAINER).write_text(json.dumps(mutated(rng, json.loads(original[TRAINER]))))
            vouch(saved)
        elif number % 3 == 1:
            vouch(saved, lambda manifest: mutated(rng, manifest))
        else:
            name = rng.choice([CONFIG, COMMITTED, TRAINER])
            content = original[name]
            place = rng.randrange(len(content))
            (saved / name).write_bytes(content[:place] + rng.randbytes(3) + content[place + rng.randrange(9) :])
            vouch(saved) if name != COMMITTED else None
        words = COMMANDS[number % len(COMMANDS)].replace("PATH", str(saved)).replace("OUT", str(tmp_path / "out"))
        done = runner.invoke(checkpoint_app, words.split())
        refused += done.exit_code != 0
        assert isinstance(done.exception, MegabiomedError | SystemExit | None), (words, repr(done.exception))
    assert refused > 25


def test_files_of_two_checkpoints_are_not_one(saved: Path) -> None:
    values = json.loads((saved / TRAINER).read_text())
    assert values["global_step"] == 20
    (saved / TRAINER).write_text(json.dumps({**values, "global_step": 15}))
    vouch(saved)
    with pytest.raises(
        CheckpointError, match="of another step than the weights beside it: got step 15, expected step 20"
    ):
        Checkpoint.open(saved)
    del values["global_step"]  # as an early release may have left it out
    (saved / TRAINER).write_text(json.dumps(values))
    vouch(saved)
    assert Checkpoint.open(saved).step == 20
    renamed = saved.rename(saved.with_name("step_00000030"))
    found, skipped = latest_valid(saved.parent)
    assert found is None
    assert skipped[0][0] == renamed
    assert (
        "holds another step than its name says: got step 20, expected step 30; rename it to step_00000020"
        in skipped[0][1]
    )
    assert Checkpoint.open(shutil.copytree(renamed, saved.parent / "copy")).step == 20


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokens_consumed", -1),
        ("samples_consumed", 2**63),
        ("global_batch_size", 0),
        ("seed", 2**70),
        ("topology", {"tensor": 0}),
        ("data", {"next_sample": -1, "ids_hash": "0" * 32, "identity": {}}),
        ("data", {"next_sample": 1, "ids_hash": "zz", "identity": {}}),
    ],
)
def test_numbers_out_of_bounds_are_named(tmp_path: Path, key: str, value: Any) -> None:
    write_json(tmp_path / TRAINER, {**TrainerState().to_json(), key: value})
    with pytest.raises(CheckpointError, match=rf"does not follow the format.*{key}"):
        read_state(tmp_path / TRAINER)


def test_one_bad_folder_does_not_end_the_table_of_all(tmp_path: Path, world: Any) -> None:
    writer = CheckpointWriter(tmp_path / "run" / "checkpoints")
    state = RunState(TrainerState(), world.MODEL.model_dump(mode="json"), world.CONFIG)
    folders = [writer.save(step, [], state) for step in (1, 2, 3, 4)]
    (folders[1] / TRAINER).write_text('{"version": "x"}')
    vouch(folders[1])
    vouch(folders[2], lambda manifest: {**manifest, "world_size": "many"})
    (folders[3] / CONFIG).write_bytes(b"\xff")
    vouch(folders[3])
    rows = json.loads(CliRunner().invoke(checkpoint_app, ["inspect", str(tmp_path / "run"), "--json"]).stdout)
    assert [row["complete"] for row in rows] == [True, False, False, True]
    assert "key 'world_size': got 'many'" in rows[1]["reason"]
    said = CliRunner().invoke(checkpoint_app, ["inspect", str(tmp_path / "run" / "checkpoints" / "step_00000004"),
                                    "--topology", "tp=2"])  # fmt: skip
    assert "expected UTF-8 text" in str(said.exception)
