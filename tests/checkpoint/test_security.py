"""A hostile folder cannot run code, read or write outside of itself, or end in anything but a named error."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from megabiomed.checkpoint.manifest import MANIFEST, check_tiling
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint, load_fragments
from megabiomed.checkpoint.state import TrainerState
from megabiomed.doctor.cli import checkpoint_app
from megabiomed.ground.errors import MegabiomedError
from megabiomed.ground.files import sha256_file, write_json
from megabiomed.model.fresh import SeededInit
from megabiomed.model.hf_export import export_hf
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture

DANGEROUS = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
seen: list[str] = []
watching: list[bool] = []


def _watch(event: str, _arguments: Any) -> None:
    if watching and event in DANGEROUS:
        seen.append(event)


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_watch)  # cannot be removed; asleep outside of these tests


@pytest.fixture
def audited() -> Iterator[list[str]]:
    """Names of the dangerous things that the interpreter did during the test."""
    seen.clear()
    watching.append(True)
    yield seen
    watching.clear()


class Payload:
    """Unpickling it leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


@pytest.fixture
def saved(tmp_path: Path, world: Any) -> Path:
    ranks = world.cut_world(world.MODEL, 1, [0.5])
    world.fill(ranks, world.random_truth())
    path: Path = world.save_world(tmp_path / "run" / "checkpoints", 120, ranks, world.state())[0]
    return path


def vouch(folder: Path) -> None:
    """Make the manifest agree with the files and the marker with the manifest, as whoever can write there could."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, record in manifest["files"].items():
        record |= {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
    replace_manifest(folder, manifest)


def replace_manifest(folder: Path, manifest: Any) -> None:
    write_json(folder / MANIFEST, manifest)
    write_json(folder / COMMITTED, {"manifest_sha256": sha256_file(folder / MANIFEST)})


def use(folder: Path, world: Any) -> None:
    """Everything that is done with a checkpoint."""
    opened = Checkpoint.open(folder, "hash")
    check_tiling(opened.manifest.tensors)
    for rank in world.cut_world(world.MODEL, 2, []):
        load_fragments(opened, rank)
    assert isinstance(opened.trainer, TrainerState)


def test_the_watch_sees_a_pickle(audited: list[str], tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "canary")))
    assert "pickle.find_class" in audited
    assert (tmp_path / "canary").exists()


def test_nothing_is_unpickled_on_any_path(audited: list[str], saved: Path, tmp_path: Path, world: Any) -> None:
    use(saved, world)
    for command in (["inspect", "--topology", "tp=2"], ["verify"]):
        assert CliRunner().invoke(checkpoint_app, [*command, str(saved)]).exit_code == 0
    assert CliRunner().invoke(checkpoint_app, ["export-hf", str(saved), str(tmp_path / "hf")]).exit_code == 0
    assert CliRunner().invoke(checkpoint_app, ["import-hf", str(tmp_path / "hf")]).exit_code == 0
    assert CliRunner().invoke(checkpoint_app, ["diff", str(saved), str(tmp_path / "hf")]).exit_code in (0, 1)
    assert audited == []


@pytest.mark.parametrize("name", ["model/rank_00000.safetensors", "optimizer/rank_00001.safetensors", "trainer.json"])
def test_a_pickle_in_place_of_a_file_is_refused_unread(
    audited: list[str], saved: Path, tmp_path: Path, world: Any, name: str
) -> None:
    (saved / name).write_bytes(pickle.dumps(Payload(tmp_path / "canary")))
    vouch(saved)
    with pytest.raises(MegabiomedError):
        use(saved, world)
    assert not (tmp_path / "canary").exists()
    assert audited == []


def test_yaml_that_calls_python_is_refused(audited: list[str], saved: Path, tmp_path: Path) -> None:
    (saved / "config.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path / 'canary'}']\n")
    vouch(saved)
    done = CliRunner().invoke(checkpoint_app, ["inspect", str(saved), "--topology", "tp=2"])
    assert isinstance(done.exception, MegabiomedError)
    assert not (tmp_path / "canary").exists()
    assert audited == []


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", "[]", "null", '"format"'])
def test_json_that_is_too_deep_or_of_another_kind_is_damage(saved: Path, text: str) -> None:
    (saved / MANIFEST).write_text(text)
    write_json(saved / COMMITTED, {"manifest_sha256": sha256_file(saved / MANIFEST)})
    with pytest.raises(MegabiomedError):
        Checkpoint.open(saved)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = put(value[path[0]], path[1:], new)
    return changed


HOSTILE = st.sampled_from(
    [
        -1,
        0,
        1,
        2**31,
        2**70,
        -(2**63),
        0.5,
        "",
        "..",
        "/etc/passwd",
        "../../x",
        None,
        True,
        [],
        {},
        [-1, 3],
        [2**40] * 2,
    ]
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 0.999), value=HOSTILE)
def test_a_manifest_with_any_value_changed_loads_or_is_refused_by_name(
    saved: Path, world: Any, where: float, value: Any
) -> None:
    original = (saved / MANIFEST).read_bytes()
    manifest = json.loads(original)
    spots = list(places(manifest))
    try:
        replace_manifest(saved, put(manifest, spots[int(where * len(spots))], value))
        with suppress(MegabiomedError):
            use(saved, world)
    finally:
        (saved / MANIFEST).write_bytes(original)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 0.999), byte=st.integers(0, 255))
def test_a_tensor_file_with_any_header_byte_changed_loads_or_is_refused(
    saved: Path, world: Any, where: float, byte: int
) -> None:
    path = saved / "model" / "rank_00000.safetensors"
    original = path.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    data = bytearray(original)
    data[int(where * header)] = byte
    manifest, marker = (saved / MANIFEST).read_bytes(), (saved / COMMITTED).read_bytes()
    try:
        path.write_bytes(data)
        vouch(saved)
        with suppress(MegabiomedError):
            use(saved, world)
    finally:
        path.write_bytes(original)
        (saved / MANIFEST).write_bytes(manifest)
        (saved / COMMITTED).write_bytes(marker)


@pytest.fixture
def hf_folder(tmp_path: Path, world: Any) -> Path:
    return export_hf(SeededInit(world.MODEL, 1), world.MODEL, tmp_path / "hf", "fp32", max_shard_bytes=4000)


def steal(folder: Path, name: str) -> None:
    index = folder / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = name
    index.write_text(json.dumps(values))


def to_absolute(folder: Path, outside: Path) -> None:
    steal(folder, str(outside))


def to_parent(folder: Path, outside: Path) -> None:
    steal(folder, f"../{outside.name}")


def to_link(folder: Path, outside: Path) -> None:
    (folder / "linked.safetensors").symlink_to(outside)
    steal(folder, "linked.safetensors")


@pytest.mark.parametrize("lead", [to_absolute, to_parent, to_link])
def test_a_hugging_face_folder_cannot_name_files_outside_of_itself(
    hf_folder: Path, tmp_path: Path, world: Any, lead: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(next(hf_folder.glob("model-00001*")).read_bytes())
    lead(hf_folder, outside)
    with pytest.raises(MegabiomedError, match="names a file outside of itself"):
        check_architecture(hf_folder, world.MODEL)


def test_code_beside_a_hugging_face_folder_is_not_run(
    audited: list[str], hf_folder: Path, tmp_path: Path, world: Any
) -> None:
    config = json.loads((hf_folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (hf_folder / "config.json").write_text(json.dumps(config))
    (hf_folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    HuggingFaceSource(hf_folder)
    done = CliRunner().invoke(checkpoint_app, ["import-hf", str(hf_folder)])
    assert "asks for what is not computed here: got auto_map" in str(done.exception)
    assert not (tmp_path / "canary").exists()
    assert audited == []
