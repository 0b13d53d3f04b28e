"""trainer.json: what is written is read again, old files read with defaults, and a wrong one is named with its key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megabiomed.checkpoint.state import VERSION, Reference, Topology, TrainerState, read_state
from megabiomed.config import LoraConfig
from megabiomed.data.progress import DataProgress
from megabiomed.ground.errors import CheckpointError

STATE = TrainerState(
    global_step=7,
    tokens_consumed=4096,
    samples_consumed=16,
    global_batch_size=2,
    data=DataProgress(16, "ab" * 16, {"seed": 5, "sources": [{"path": "a", "share": 0.25, "limit": None}]}),
    seed=5,
    topology=Topology(tensor=2, pipeline=1, data=2, engine="zero3"),
    megabiomed="0.1.0",
    frozen={"language_model": Reference(kind="seeded", path=None, sha256="00"), "molecule": "11"},
    stage="adaptors",
    stage_lora=LoraConfig(rank=2, targets=["q", "k", "v", "o", "gate", "up", "down"]),
    template="biomedgpt",
)
OLD = {
    "global_step": 7, "tokens_consumed": 4096, "samples_consumed": 16, "global_batch_size": 2,
    "data": {"next_sample": 16, "ids_hash": "ab" * 16,
             "identity": {"seed": 5, "sources": [{"path": "a", "share": 0.25, "limit": None}]}},
    "seed": 5, "topology": {"tensor": 2, "pipeline": 1, "data": 2, "engine": "zero3"}, "megabiomed": "0.1.0",
    "stage": "adaptors",
    "frozen": {"language_model": {"kind": "seeded", "path": None, "sha256": "00"}, "molecule": "11"},
    "template": "biomedgpt",
    "stage_lora": {"rank": 2, "alpha": 32.0, "dropout": 0.0, "targets": ["q", "k", "v", "o", "gate", "up", "down"]},
}  # fmt: skip
"""What the release before versions wrote for STATE."""


def stored(folder: Path, values: Any) -> Path:
    (folder / "trainer.json").write_text(json.dumps(values))
    return folder / "trainer.json"


def test_what_is_written_is_what_earlier_releases_wrote_and_a_version() -> None:
    assert STATE.to_json() == {"version": VERSION, **OLD}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_state(stored(tmp_path, STATE.to_json())) == STATE
    assert read_state(stored(tmp_path, TrainerState().to_json())) == TrainerState()


def test_a_file_without_a_version_is_read(tmp_path: Path) -> None:
    assert read_state(stored(tmp_path, OLD)) == STATE.model_copy(update={"version": 0})


def test_keys_that_an_old_file_lacks_have_defaults_and_keys_that_nobody_knows_are_passed_over(tmp_path: Path) -> None:
    found = read_state(stored(tmp_path, {"global_step": 3, "rng": [1, 2], "topology": {"tp": 2}}))
    assert found == TrainerState(version=0, global_step=3)
    assert found.language_model is None


@pytest.mark.parametrize("version", [VERSION + 1, 99])
def test_a_newer_format_is_refused_with_the_keys_that_are_not_known(tmp_path: Path, version: int) -> None:
    path = stored(tmp_path, {"version": version, "global_step": 3, "context": 2, "beams": 1})
    with pytest.raises(
        CheckpointError, match=r"newer format with keys .* beams, context: got version .*update megabiomed"
    ):
        read_state(path)
    with pytest.raises(CheckpointError, match="newer format: got version"):
        read_state(stored(tmp_path, {"version": version}))


def test_an_unknown_key_of_this_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"trainer\.json has unknown keys: got stagee"):
        read_state(stored(tmp_path, {"version": VERSION, "stagee": "a"}))


@pytest.mark.parametrize(
    ("values", "key", "got"),
    [
        ({"version": "one"}, "version", "'one'"),
        ({"tokens_consumed": "12"}, "tokens_consumed", "'12'"),
        ({"seed": True}, "seed", "True"),
        ({"seed": None}, "seed", "None"),
        ({"stage": 3}, "stage", "3"),
        ({"data": {"next_sample": 1.5, "ids_hash": "", "identity": {}}}, "data.next_sample", "1.5"),
        ({"frozen": []}, "frozen", r"\[\]"),
        ({"lora": {"rank": 0}}, "lora.rank", "0"),
        ({"topology": {"tensor": "two"}}, "topology.tensor", "'two'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_file_and_key(
    tmp_path: Path, values: dict[str, Any], key: str, got: str
) -> None:
    with pytest.raises(CheckpointError, match=rf"trainer\.json .* key '{key}': got {got}, expected .+"):
        read_state(stored(tmp_path, values))


@pytest.mark.parametrize("values", [[], None, 3, "text"])
def test_what_is_no_object_is_damaged(tmp_path: Path, values: Any) -> None:
    with pytest.raises(CheckpointError, match=r"is damaged: got .*, expected a JSON object"):
        read_state(stored(tmp_path, values))
