"""One changed bit in weights, masters or moments is found, and named with its rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.spawn import run_ranks

from megabiomed.checkpoint.checksums import checksums
from megabiomed.engine.replicas import _odd

WORKER = Path(__file__).with_name("engine_worker.py")
CASES: list[dict[str, Any]] = [
    {"parallel": {"zero_stage": 0}, "used": "gradient of "},
    {"parallel": {"zero_stage": 1}, "precision": "bf16", "used": "gradient of "},
    {"parallel": {"zero_stage": 1}, "precision": "bf16", "lora": {"rank": 4}, "used": "gradient of "},
    {"parallel": {"zero_stage": 2, "tensor_parallel_size": 2, "sequence_parallel": True}},
    {"parallel": {"zero_stage": 3}, "precision": "bf16"},
    {"parallel": {"zero_stage": 3, "tensor_parallel_size": 2}, "used": "gradient of "},
    {"parallel": {"engine": "fsdp2", "tensor_parallel_size": 2}, "used": "gradient of "},
    {"parallel": {"engine": "fsdp2"}, "precision": "bf16"},
    {
        "parallel": {"zero_stage": 1, "pipeline_parallel_size": 2},
        "model": {"tie_word_embeddings": True},
        "used": "tied copy of ",
    },
]


@pytest.mark.timeout(400)
def test_one_flipped_bit_in_the_state_of_any_engine_is_found_before_it_is_used(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    run_ranks(2, [str(WORKER), "replicas", str(output), json.dumps(CASES)], tmp_path / "logs", 380)
    for case, found in zip(CASES, json.loads(output.read_text()), strict=True):
        assert found["clean"] == [], case
        for (name, copies, alike, changed), (*_, elsewhere) in zip(found["told"], found["first"], strict=True):
            assert {"tensor": name, "ranks": [1], "sure": True} in changed, case
            assert elsewhere == [], case  # on the rank whose memory is whole
            # Of two copies nobody knows which one is right. In fp32 a part under ZeRO-3 is its own master.
            assert {(told["tensor"].split(" (")[0], *told["ranks"], told["sure"]) for told in alike} == (
                {(name.split(" (")[0], 0, 1, False)} if copies else set()
            ), case
            assert (name in {told["tensor"] for told in alike}) == bool(copies), case
        used = [(told["tensor"].startswith(case.get("used", "-")), told["ranks"]) for told in found["used"]]
        assert used == [(True, [0, 1])] * ("used" in case), (case, found["used"])
        hook = found["hook"]
        ((kind, told),) = hook["events"]
        assert (kind, told["step"], told["ranks"]) == ("corruption", 4, [1]), case
        assert told["tensors"] == [hook["name"]], case
        assert told["bad_nodes"] == hook["nodes"] == told["hosts"], case
        assert f"state after step 4 is damaged: .*: got {hook['name']} on rank 1 (" in hook["error"].replace(
            "a memory or a link of a device is at fault, or an operation is not deterministic", ".*"
        ), case


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
    ("sums", "odd"),
    [
        ([7, 7, 9, 7], ([2], True)),
        ([7, 9], ([0, 1], False)),
        ([7, 7, 9, 9], ([0, 1, 2, 3], False)),
        ([1, 7, 7], ([0], True)),
        ([7, 7], ([], False)),
        ([None, 7, None, 9], ([1, 3], False)),
        ([None, 7, None], ([], False)),
    ],
)
def test_the_majority_of_those_that_hold_a_tensor_is_right_and_without_one_all_are_suspected(
    sums: list[int | None], odd: tuple[list[int], bool]
) -> None:
    assert _odd([value or 0 for value in sums], [value is not None for value in sums]) == odd
