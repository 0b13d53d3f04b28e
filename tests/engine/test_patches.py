"""Each measure for DeepSpeed matters: with one of them switched off, the parity problem goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.parity import case_config, reference
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("broken_worker.py")
PP2 = {"pipeline_parallel_size": 2, "zero_stage": 3}
TP2_PP2 = {"pipeline_parallel_size": 2, "tensor_parallel_size": 2, "zero_stage": 1}
INTERLEAVED = {**PP2, "pipeline_schedule": "interleaved", "virtual_pipeline_stages": 2}

BROKEN = [
    pytest.param("managed_gradient_accumulation", 2, {**PP2, "zero_stage": 1}, id="step-is-the-boundary"),
    pytest.param("mark_replicated", 4, TP2_PP2 | {"zero_stage": 3}, id="replicated-parameters-in-the-norm"),
    pytest.param("forget_old_gradients", 2, INTERLEAVED, id="stale-gradients"),
    pytest.param("gradient_accumulation_steps", 2, {**PP2, "zero_stage": 1}, id="one-accumulation-step"),
]


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    return reference(case_config({"name": "reference"}))


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("measure", "world", "parallel"), BROKEN)
def test_without_the_measure_the_run_is_wrong(
    measure: str, world: int, parallel: dict[str, Any], oracle: dict[str, Any], tmp_path: Path
) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"name": "broken", "parallel": parallel}]))
    run_ranks(world, [str(WORKER), measure, str(cases), str(tmp_path)], tmp_path / "logs", 120)
    curve = json.loads((tmp_path / "broken" / "curve.json").read_text())
    worst = max(abs(a - b) / abs(b) for key in ("loss", "grad_norm") for a, b in zip(curve[key], oracle[key]))
    assert worst > 1e-4


@pytest.mark.timeout(180)
def test_without_the_begin_of_backward_mark_zero_loses_its_state(tmp_path: Path) -> None:
    cases = tmp_path / "cases.json"
    cases.write_text(json.dumps([{"name": "broken", "parallel": PP2}]))
    with pytest.raises(AssertionError, match=r"unknown parameter type|NoneType"):
        run_ranks(2, [str(WORKER), "mark_backward", str(cases), str(tmp_path)], tmp_path / "logs", 120)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_with_bare_barriers_zero3_waits_for_ranks_that_have_no_model(tmp_path: Path) -> None:
    worker = str(WORKER.with_name("barrier_worker.py"))
    run_ranks(2, [worker], tmp_path / "logs", 120)
    with pytest.raises(AssertionError, match=r"stage3\.py.*\n.*dist\.barrier\(\)"):
        run_ranks(2, [worker, "bare"], tmp_path / "logs", 120)
