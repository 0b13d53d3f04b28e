"""Any topology reads what any topology wrote, bit for bit; and only whole, untouched checkpoints are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.manifest import MANIFEST
from megabiomed.checkpoint.marker import COMMITTED
from megabiomed.checkpoint.reader import Checkpoint, load_fragments
from megabiomed.config.optimizers import ADAMW
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import sha256_file
from megabiomed.runs.checkpointing import PeakMemory

TOPOLOGIES = st.tuples(st.sampled_from([1, 2, 4]), st.lists(st.floats(0, 1), max_size=3))


@pytest.fixture
def saved(tmp_path: Path, world: Any) -> Path:
    ranks = world.cut_world(world.MODEL, 2, [0.3])
    world.fill(ranks, world.random_truth())
    paths = world.save_world(tmp_path / "checkpoints", 120, ranks, world.state())
    assert paths == [tmp_path / "checkpoints" / "step_00000120"] * 4
    return paths[0]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(writers=TOPOLOGIES, readers=TOPOLOGIES, seed=st.integers(0, 99))
def test_what_one_topology_saves_any_other_loads_bit_identically(
    tmp_path_factory: pytest.TempPathFactory, world: Any, writers: Any, readers: Any, seed: int
) -> None:
    truth = world.random_truth(seed=seed)
    ranks = world.cut_world(world.MODEL, *writers)
    world.fill(ranks, truth)
    (path, *_) = world.save_world(tmp_path_factory.mktemp("run"), 7, ranks, world.state())
    loaded, wanted = world.cut_world(world.MODEL, *readers), world.cut_world(world.MODEL, *readers)
    world.fill(wanted, truth)
    for rank in loaded:
        load_fragments(Checkpoint.open(path, "hash"), rank)
    pairs = [(a, b) for mine, right in zip(loaded, wanted) for a, b in zip(mine, right)]
    assert all(torch.equal(a.views[kind], b.views[kind]) for a, b in pairs for kind in ADAMW.kinds)


def test_a_box_across_several_ranks_is_put_together(saved: Path, world: Any) -> None:
    truth = world.random_truth()["exp_avg"]["model.layers.1.self_attn.o_proj.weight"]
    box = Box("model.layers.1.self_attn.o_proj.weight", (16, 16), (3, 5), (9, 7))
    assert torch.equal(Checkpoint.open(saved).read(box, "exp_avg"), truth[3:12, 5:12])


def test_the_state_of_the_run_comes_back(saved: Path, world: Any) -> None:
    checkpoint = Checkpoint.open(saved)
    trainer = world.state().trainer.model_copy(update={"global_step": 120})
    assert (checkpoint.step, checkpoint.trainer, checkpoint.config_text) == (120, trainer, world.CONFIG)
    assert checkpoint.architecture == world.MODEL.model_dump(mode="json")
    assert checkpoint.tokenizer is None


def test_a_tensor_of_another_shape_or_name_is_another_model(saved: Path) -> None:
    checkpoint = Checkpoint.open(saved)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has another shape .*got \(16,\), expected \(32,\)"):
        checkpoint.read(Box.whole("model.norm.weight", (32,)))
    with pytest.raises(CheckpointError, match=r"holds no param of model\.layers\.2"):
        checkpoint.read(Box.whole("model.layers.2.input_layernorm.weight", (16,)))
    with pytest.raises(CheckpointError, match=r"holds no momentum of model\.norm\.weight"):
        checkpoint.read(Box.whole("model.norm.weight", (16,)), "momentum")


def forge(path: Path, change: Any) -> None:
    """Change a manifest and make the marker vouch for it, as a writer with a bug would."""
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))
    (path / COMMITTED).write_text(json.dumps({"manifest_sha256": sha256_file(path / MANIFEST)}))


def test_a_hole_is_named_with_its_tensor_and_its_place(saved: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"

    def drop(manifest: Any) -> None:
        boxes = manifest["tensors"][name]["boxes"]
        boxes[:] = [box for box in boxes if box["offset"][1] == 0]

    forge(saved, drop)
    with pytest.raises(
        CheckpointError, match=r"does not hold param of model\.layers\.0\.mlp\.down_proj\.weight\[0:16, 12:24\]"
    ):
        Checkpoint.open(saved).read(Box.whole(name, (16, 24)))


def test_only_a_committed_checkpoint_is_opened(saved: Path) -> None:
    (saved / COMMITTED).unlink()
    with pytest.raises(CheckpointError, match="not committed"):
        Checkpoint.open(saved)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        Checkpoint.open(saved / "elsewhere")


def test_a_truncated_a_missing_and_a_changed_file_are_told_apart(saved: Path) -> None:
    shard = saved / "optimizer" / "rank_00002.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert Checkpoint.open(saved, "size").step == 120
    with pytest.raises(CheckpointError, match=r"the content of optimizer/rank_00002\.safetensors has changed"):
        Checkpoint.open(saved, "hash")
    shard.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=rf"has {len(data) - 1} bytes instead of {len(data)}"):
        Checkpoint.open(saved, "size")
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"optimizer/rank_00002\.safetensors is missing"):
        Checkpoint.open(saved, "size")


def test_a_manifest_edited_after_the_commit_is_refused(saved: Path) -> None:
    text = (saved / MANIFEST).read_text()
    (saved / MANIFEST).write_text(text.replace('"global_step": 120', '"global_step": 121'))
    with pytest.raises(CheckpointError, match="changed after the commit"):
        Checkpoint.open(saved)


@pytest.mark.parametrize("marker", ["", "{}", "[]", '{"manifest_sha256": 3}'])
def test_a_damaged_marker_is_refused(saved: Path, marker: str) -> None:
    (saved / COMMITTED).write_text(marker)
    with pytest.raises(CheckpointError, match="COMMITTED is damaged"):
        Checkpoint.open(saved)


def test_a_newer_format_asks_for_a_newer_program(saved: Path) -> None:
    forge(saved, lambda manifest: manifest.update(version=99))
    with pytest.raises(CheckpointError, match="newer format: got 99, expected up to 1; update megabiomed"):
        Checkpoint.open(saved)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "model/../../outside"])
def test_a_manifest_cannot_name_files_outside_of_its_folder(saved: Path, name: str) -> None:
    forge(saved, lambda manifest: manifest["files"].update({name: {"bytes": 1, "sha256": 64 * "0"}}))
    with pytest.raises(CheckpointError, match="outside of itself"):
        Checkpoint.open(saved)


def test_a_symbolic_link_cannot_lead_out_of_the_folder(saved: Path, tmp_path: Path) -> None:
    shard = saved / "model" / "rank_00000.safetensors"
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="outside of itself"):
        Checkpoint.open(saved)


def test_a_file_that_is_no_tensor_file_is_a_clear_error(saved: Path) -> None:
    shard = saved / "model" / "rank_00000.safetensors"
    shard.write_bytes(b"\xff" * shard.stat().st_size)
    with pytest.raises(CheckpointError, match="no readable safetensors file"):
        Checkpoint.open(saved).read(Box.whole("model.embed_tokens.weight", (53, 16)))


def test_loading_holds_its_own_shard_and_one_tensor(tmp_path: Path, world: Any) -> None:
    """96 MiB of state into memory that is already there: what is needed besides is the read buffer."""
    shape = (2048, 4096)
    whole = Fragment(Box.whole("w", shape), {kind: torch.ones(shape) for kind in ADAMW.kinds})
    (path,) = world.save_world(tmp_path, 1, [[whole]], world.state(expected={"w": shape}))
    # Columns of a row-parallel shard, which lie scattered in the file.
    part = Box("w", shape, (0, 1024), (2048, 2048))
    mine = Fragment(part, {kind: torch.zeros(part.shape) for kind in ADAMW.kinds})
    source = Checkpoint.open(path)
    with PeakMemory() as memory:
        load_fragments(source, [mine])
    assert all(view.all() for view in mine.views.values())
    assert source.bytes_read == 3 * part.numel * 4
    assert memory.rise < 24 * 2**20
