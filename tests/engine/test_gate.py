"""A step that is refused leaves everything as if its batch had not been there, under every engine."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.spawn import run_ranks

from megabiomed.engine.gate import Limits, UpdateGate, guard_step

WORKER = Path(__file__).with_name("engine_worker.py")
MOMENTUM = {"kind": "support.momentum:MOMENTUM"}
CASES: list[dict[str, Any]] = [
    {"parallel": {"zero_stage": 0}},
    {"parallel": {"zero_stage": 1}, "precision": "bf16", "lora": {"rank": 4}},
    {"parallel": {"zero_stage": 1, "pipeline_parallel_size": 2}, "model": {"tie_word_embeddings": True}},
    {"parallel": {"zero_stage": 2, "tensor_parallel_size": 2, "sequence_parallel": True}},
    {"parallel": {"zero_stage": 2, "offload_optimizer": True}, "precision": "bf16"},
    {"parallel": {"zero_stage": 3}, "precision": "bf16"},
    {"parallel": {"zero_stage": 3, "pipeline_parallel_size": 2}, "precision": "bf16"},
    {"parallel": {"engine": "fsdp2"}},
    *({"parallel": parallel, "optimizer": MOMENTUM} for parallel in ({"zero_stage": 0}, {"engine": "fsdp2"})),
]


@pytest.mark.timeout(240)
def test_a_refused_step_equals_a_run_without_its_batch_to_the_bit(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    cases = json.dumps([{**case, "micro_batch_size": 2} for case in CASES])
    run_ranks(2, [str(WORKER), "refused", str(output), cases], tmp_path / "logs", 200)
    for case, found in zip(CASES, json.loads(output.read_text()), strict=True):
        assert found["applied"] == [True, False, False, True], case
        assert found["finite"] == [True, False, True, True], case
        assert [math.isfinite(loss) for loss in found["losses"]] == [True, False, True, True], case
        assert found["counts"] in ([2.0], []), case  # moments of two updates, not of four steps
        assert found["broken"] == 0, case


@pytest.mark.parametrize(
    ("loss", "norm", "applied"),
    [(1.0, 2.0, True), (1.5, 2.0, True), (1.6, 2.0, False), (1.0, 3.1, False), (math.nan, 2.0, False),
     (1.0, math.inf, False), (1.0, -1.0, False)],
)  # fmt: skip
def test_a_gate_refuses_what_is_above_its_limits_or_not_finite(
    loss: float, norm: float, applied: bool, alone: None
) -> None:
    gate, called = UpdateGate(), []
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    guard_step(optimizer, lambda: called.append(1) is None and gate.allows(torch.tensor(norm)))
    parameter.grad = torch.ones(1)
    gate.begin(torch.tensor(loss))
    optimizer.step()
    assert (gate.verdict(), float(parameter.detach())) == (None, 0.0)  # without limits it says nothing
    gate.limits = Limits(1.5, 3.0)
    gate.begin(torch.tensor(loss))
    scale = gate.scaled(torch.ones(1), torch.tensor(norm))
    assert bool(scale.isnan().all()) != applied
    optimizer.step()
    assert float(parameter.detach()) == (-1.0 if applied else 0.0)
    verdict = gate.verdict()
    assert verdict is not None
    assert verdict.applied == applied
    assert len(called) == 2


def test_the_norm_of_a_step_is_that_of_all_its_optimizers(alone: None) -> None:
    gate = UpdateGate()
    gate.limits = Limits(grad_norm=4.9)
    gate.begin(torch.tensor(1.0), torch.tensor(3.0))
    assert not gate.allows(torch.tensor(4.0))
    verdict = gate.verdict()
    assert verdict is not None
    assert verdict.grad_norm == 5.0
