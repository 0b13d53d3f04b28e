"""A window of a run under torch's profiler."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.runs import events, losses

from megabiomed.config import RunConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.runs.hooks.profile import Profile
from megabiomed.runs.kernel_classes import collective_of
from megabiomed.runs.training import Training


@pytest.mark.timeout(200)
def test_a_window_that_a_stop_cuts_short_leaves_traces_and_tables_of_the_ranks_asked_for(
    run_file: Path, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    words = ["train.steps=5", "train.log_every=1", "tracking.mlflow=false"]
    done = command(
        "pretrain", run_file, f"run_dir={tmp_path / 'r'}", *words, "profile={steps: [2, 4], ranks: [0, 1]}",
        "train.stop_after=3",
    )  # fmt: skip
    folder = tmp_path / "r/profile"
    names = [f"steps_2-3_rank_{rank}{end}" for rank in (0, 1) for end in (".json", ".trace.json.gz")]
    assert sorted(file.name for file in folder.iterdir()) == names
    tables = json.loads((folder / names[0]).read_text())
    classes = {row["name"]: row for row in tables["class"]}
    assert classes["matrix products"]["calls"] > 0
    assert 0 < sum(row["seconds"] for row in tables["class"]) <= 1.5 * tables["seconds"]
    assert {"all_reduce"} <= {row["name"] for row in tables["collective"]}
    with gzip.open(folder / names[1]) as file:
        assert any(event.get("name") == "aten::mm" for event in json.load(file)["traceEvents"])
    assert "profile, class: matrix products" in done.stdout
    assert [event["step"] for event in events(tmp_path / "r") if event["event"] == "profile"] == [3]

    command("pretrain", run_file, f"run_dir={tmp_path / 'plain'}", *words, "train.stop_after=3")
    assert losses(tmp_path / "r") == losses(tmp_path / "plain")


def config(**profile: Any) -> RunConfig:
    return RunConfig.model_validate({"name": "p", "train": {"steps": 9}, "profile": profile})


@pytest.mark.parametrize("steps", [[3], [0, 2], [5, 4], [1, 101], [1, 2, 3]])
def test_what_is_no_window_of_steps_is_refused(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="profile"):
        config(steps=steps)


def test_ranks_that_the_run_does_not_have_are_refused_on_all_ranks() -> None:
    held = SimpleNamespace(config=config(steps=[1, 2], ranks=[0, 2, 7]), mesh=SimpleNamespace(world=2, rank=0))
    with pytest.raises(ConfigError, match=r"does not have: got \[2, 7\], expected 0 to 1"):
        Profile().at_start(cast(Training, held))


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)", "all_reduce"),
        ("ncclDevKernel_ReduceScatter_Sum_f32_RING_LL", "reduce_scatter"),
        ("ncclDevKernel_AllGather_RING_LL", "all_gather"),
        ("ncclDevKernel_SendRecv", "send_recv"),
        ("gloo:all_reduce", "all_reduce"),
        ("c10d::broadcast_", "broadcast"),
        ("void at::native::reduce_kernel<512, 1>", None),
        ("aten::mm", None),
    ],
)
def test_collectives_have_one_name_on_every_backend(kernel: str, name: str | None) -> None:
    assert collective_of(kernel) == name
