"""One changed bit in weights that several ranks hold alike is found, and named with its rank."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from support.spawn import run_ranks

from megabiomed.engine.mesh import Mesh
from megabiomed.engine.replicas import _odd, checksums, differences

WORKER = Path(__file__).with_name("engine_worker.py")
CASES: list[dict[str, Any]] = [
    {"parallel": {"zero_stage": 0}},
    {"parallel": {"zero_stage": 1}, "precision": "bf16", "lora": {"rank": 4}},
    {"parallel": {"zero_stage": 2, "tensor_parallel_size": 2, "sequence_parallel": True}},
    {"parallel": {"zero_stage": 1, "tensor_parallel_size": 2}},
    {"parallel": {"zero_stage": 3}},
    {"parallel": {"engine": "fsdp2"}},
]


@pytest.mark.timeout(200)
def test_a_flipped_bit_is_found_on_every_engine_that_holds_copies_and_nothing_else_is(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    run_ranks(2, [str(WORKER), "replicas", str(output), json.dumps(CASES)], tmp_path / "logs", 180)
    for case, found in zip(CASES, json.loads(output.read_text()), strict=True):
        assert found["clean"] == [], case
        for name, told in found["told"]:
            # Of two ranks nobody knows which one is right.
            assert told == [{"tensor": name, "ranks": [0, 1]}], case
        assert bool(found["told"]) == (case["parallel"].get("zero_stage", 3) < 3), case
        hook = found["hook"]
        if not found["told"]:
            assert hook["events"] == [
                "health: no rank holds what another one holds too, so health.check_every compares nothing"
            ], case
            continue
        (kind, told), name = hook["events"]
        assert (kind, told["step"], told["ranks"], told["tensors"]) == ("corruption", 4, [0, 1], [name]), case
        assert f"weights differ after step 4 .*: got {name} on rank 0, 1 (" in hook["error"].replace(
            "between ranks that must hold the same: memory or a link of a device is damaged, or an operation is not "
            "deterministic", ".*",
        ), case  # fmt: skip
        if "tensor_parallel_size" in case["parallel"]:
            assert all("norm" in name for name, _ in found["told"]), case


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_every_bit_of_a_tensor_counts(dtype: torch.dtype) -> None:
    tensor = torch.ones(5, 3, dtype=dtype)
    (before,) = checksums([tensor])
    of = tensor.view(-1).view(torch.uint8)
    for place in range(of.numel()):
        of[place] ^= 1
        assert checksums([tensor])[0] != before
        of[place] ^= 1
    assert checksums([tensor, tensor.t()]).tolist() == [int(before)] * 2  # strided alike


@pytest.mark.parametrize(
    ("sums", "odd"), [([7, 7, 9, 7], [2]), ([7, 9], [0, 1]), ([7, 7, 9, 9], [0, 1, 2, 3]), ([1, 7, 7], [0])]
)
def test_the_majority_is_right_and_without_one_all_are_suspected(sums: list[int], odd: list[int]) -> None:
    assert _odd(torch.tensor(sums)) == odd


def test_a_rank_outside_the_model_compares_nothing() -> None:
    inner = SimpleNamespace(replicated=lambda: iter([("norm", torch.ones(2), "tp")]))
    engine = SimpleNamespace(data_parallel=inner, mesh=cast(Mesh, SimpleNamespace(in_model=False)))
    assert differences(cast(Any, engine)) == []
