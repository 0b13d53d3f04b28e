"""A step lets the host run ahead of the device: on a GPU every wait leaves the device idle until the host has caught up."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support.spawn import run_ranks

from megabiomed.config.grid import PipelineParts
from megabiomed.engine.pipeline import Pipeline
from megabiomed.engine.zero_gathers import HostLead
from megabiomed.processes import platform

WORKER = Path(__file__).with_name("host_waits_worker.py")
CASES: dict[str, dict[str, Any]] = {
    "zero1": {"zero_stage": 1},
    "zero3": {"zero_stage": 3},
    "zero3 in groups of one": {"zero_stage": 3, "pipeline_parallel_size": 2},
}
ON_THE_HOST = {"packing.py", "documents.py", "loss_chunks.py", "fused_adamw.py", "pipeline.py"}
"""Files that read numbers which are on the host on a GPU too, or take another path there."""


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, dict[str, int]]]]:
    """What each rank counted in the fourth step of each case."""
    folder = tmp_path_factory.mktemp("waits")
    cases = json.dumps([{"parallel": parallel, "precision": "bf16"} for parallel in CASES.values()])
    run_ranks(2, [str(WORKER), cases, str(folder)], folder / "logs", 120)
    ranks = [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(2)]
    return {name: list(found) for name, found in zip(CASES, zip(*ranks, strict=True), strict=True)}


@pytest.mark.timeout(150)
@pytest.mark.parametrize("name", CASES)
def test_a_step_reads_one_number_before_its_update_and_waits_for_nothing_else(name: str, counted: Any) -> None:
    for found in counted[name]:
        reads = {where: n for where, n in found["reads"].items() if where.split()[0] not in ON_THE_HOST}
        assert reads == {"utils.py is_invalid_grad_norm": 1}  # whether the norm is finite
        # A number that is made on the device is copied from the host; tokens of few ranks are added up on the host.
        assert set(found["numbers"]) <= {"messages.py combined"}
        assert found["device"] == {}


@pytest.mark.timeout(150)
def test_zero3_fetches_and_copies_no_layer_where_one_rank_has_all_of_it(counted: Any) -> None:
    kinds = ("layers", "copies", "buffers")
    assert all(found[kind] for found in counted["zero3"] for kind in kinds)
    assert not any(found[kind] for found in counted["zero3 in groups of one"] for kind in kinds)


def test_the_host_is_at_most_one_micro_batch_ahead_where_weights_are_gathered() -> None:
    done: list[str] = []

    class Start:
        def __init__(self, number: int) -> None:
            self.number = number

        def synchronize(self) -> None:
            done.append(f"wait for {self.number}")

    numbers = iter(range(3))
    lead = HostLead(lambda: Start(next(numbers)))
    for number in range(3):
        lead.begin()
        done.append(f"queue {number}")
    assert done == ["queue 0", "wait for 0", "queue 1", "wait for 1", "queue 2"]


def test_a_stage_of_a_pipeline_knows_its_micro_batch_without_asking_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "device", lambda: torch.device("meta"))
    handed: list[torch.Tensor] = []
    pipeline = Pipeline.__new__(Pipeline)
    pipeline.micro_batches, pipeline.stage = 2, 1
    pipeline.parts = PipelineParts(2, 1)
    pipeline.data_parallel = SimpleNamespace(stage=SimpleNamespace(finish_backward=lambda: None))
    pipeline._schedule = SimpleNamespace(step=lambda *_, index, **__: handed.append(index))
    batch = SimpleNamespace(loss_scale=None)
    monkeypatch.setattr("megabiomed.engine.pipeline.replace", lambda batch, **_: batch)
    pipeline.run([batch, batch], scale=1.0)
    assert [number.device.type for number in handed] == ["cpu"]
