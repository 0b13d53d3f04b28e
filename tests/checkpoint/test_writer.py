"""Shard files are plain safetensors, hold only what the rank owns, and never a second copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megabiomed.checkpoint.logical import Box, Fragment
from megabiomed.checkpoint.manifest import box_key
from megabiomed.checkpoint.tensorfile import LazyTensor, TensorFiles, write_tensors
from megabiomed.checkpoint.writer import RankFiles, save_shards, tensor_records
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import sha256_file


def fragment(offset: int, rows: int, owner: bool = True, **views: torch.Tensor) -> Fragment:
    return Fragment(Box("w", (10, 3), (offset, 0), (rows, 3)), views, owner)


def test_the_official_library_reads_what_is_written(tmp_path: Path) -> None:
    part, moment = torch.randn(4, 3), torch.randn(4, 3)
    files = save_shards(tmp_path, 3, [fragment(2, 4, param=part, exp_avg=moment)]).files
    assert list(files) == ["model/rank_00003.safetensors", "optimizer/rank_00003.safetensors"]
    assert torch.equal(load_file(tmp_path / "model/rank_00003.safetensors")["w|2,0|4,3|param"], part)
    assert torch.equal(load_file(tmp_path / "optimizer/rank_00003.safetensors")["w|2,0|4,3|exp_avg"], moment)
    for path, record in files.items():
        assert (record.bytes, record.sha256) == ((tmp_path / path).stat().st_size, sha256_file(tmp_path / path))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (5, 0), (3, 4, 5)])
def test_every_element_type_and_shape_survives(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    values = {"a": torch.randn(7).to(dtype), "b/é": torch.randn(shape).to(dtype)}
    write_tensors(
        tmp_path / "x", [LazyTensor(key, dtype, value.shape, value.clone) for key, value in values.items()], {}
    )
    found = load_file(tmp_path / "x")
    assert all(torch.equal(found[key], value) and found[key].dtype == dtype for key, value in values.items())
    part = tuple(slice(0, n) for n in shape)
    assert torch.equal(TensorFiles().read(tmp_path / "x", "b/é", part), values["b/é"])


def test_a_view_with_strides_is_written_by_value(tmp_path: Path) -> None:
    whole = torch.arange(60.0).view(10, 6)
    save_shards(tmp_path, 0, [fragment(0, 10, param=whole[:, ::2])])
    assert torch.equal(load_file(tmp_path / "model/rank_00000.safetensors")["w|0,0|10,3|param"], whole[:, ::2])


def test_a_rank_that_owns_nothing_writes_no_file(tmp_path: Path) -> None:
    assert save_shards(tmp_path, 0, [fragment(0, 2, owner=False, param=torch.zeros(2, 3))]) == RankFiles({}, [])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("view", [torch.zeros(3, 3), torch.zeros(2, 3, dtype=torch.int64)])
def test_a_view_of_another_shape_or_type_than_its_box_is_refused(tmp_path: Path, view: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"param of w\[0:2, 0:3\] cannot be saved"):
        save_shards(tmp_path, 0, [fragment(0, 2, param=view)])


def test_the_same_box_twice_on_one_rank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="written twice"):
        save_shards(tmp_path, 0, [fragment(0, 2, param=torch.zeros(2, 3)) for _ in range(2)])


def test_ranks_that_disagree_about_a_shape_are_refused(tmp_path: Path) -> None:
    other = Fragment(Box("w", (11, 3), (10, 0), (1, 3)), {"param": torch.zeros(1, 3)})
    mine = save_shards(tmp_path, 0, [fragment(0, 10, param=torch.zeros(10, 3))])
    with pytest.raises(CheckpointError, match="disagree about the shape of w"):
        tensor_records([mine, save_shards(tmp_path, 1, [other])])


def test_saving_holds_no_copy_of_the_state(tmp_path: Path) -> None:
    fragments = [
        Fragment(Box.whole(f"w{i}", (512, 512)), {"param": torch.ones(512, 512), "exp_avg": torch.ones(512, 512)})
        for i in range(4)
    ]
    with torch.profiler.profile(profile_memory=True) as profile:
        save_shards(tmp_path, 0, fragments)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    assert allocated < 1 << 20, f"{allocated} bytes allocated to save 8 MiB of state"


def test_a_key_tells_tensor_place_and_kind() -> None:
    assert box_key(Box("a.b", (4, 6), (1, 2), (3, 4)), "exp_avg") == "a.b|1,2|3,4|exp_avg"
    assert box_key(Box.whole("scalar", ()), "param") == "scalar|||param"
