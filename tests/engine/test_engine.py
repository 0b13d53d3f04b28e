"""What the parity numbers alone would not show: decay groups, memory, evaluation, an independent tensor-parallel peer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("engine_worker.py")
pytestmark = pytest.mark.timeout(240)
Job = Callable[[str, int, list[dict[str, Any]]], Any]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    def run(what: str, world: int, cases: list[dict[str, Any]]) -> Any:
        output = tmp_path / "found.json"
        run_ranks(world, [str(WORKER), what, str(output), json.dumps(cases)], tmp_path / "logs", 200)
        return json.loads(output.read_text())

    return run


ENGINES: list[dict[str, Any]] = [
    *({"parallel": {"zero_stage": stage}} for stage in range(4)),
    {"parallel": {"engine": "fsdp2"}},
    {"parallel": {"zero_stage": 1}, "precision": "bf16"},
    {"parallel": {"zero_stage": 3, "tensor_parallel_size": 2, "sequence_parallel": True}},
]


def test_matrices_decay_and_norms_do_not(job: Job) -> None:
    for case, factors in zip(ENGINES, job("decay", 2, ENGINES), strict=True):
        for name, factor in factors.items():
            expected = 1.0 if "norm" in name else 1 - 0.01 * 0.1
            assert factor == pytest.approx(expected, abs=1e-6), (case, name)


WIDE = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 12, "vocab_size": 4000}


@pytest.mark.parametrize(
    "parallel",
    [
        pytest.param({"zero_stage": 3}, id="zero3"),
        pytest.param({"engine": "fsdp2"}, id="fsdp2"),
        pytest.param({"zero_stage": 1, "tensor_parallel_size": 2, "pipeline_parallel_size": 2}, id="tp2-pp2"),
    ],
)
def test_no_rank_ever_holds_the_whole_model(job: Job, parallel: dict[str, Any]) -> None:
    """Four ranks, in units of the fp32 weights: construction stays well below one; with gradients, masters and both
    moments (5 in one process) a rank stays below 3, DeepSpeed's buffers included."""
    (found,) = job("memory", 4, [{"parallel": parallel, "model": WIDE}])
    assert found["constructed"] < 0.7
    assert found["loaded"] < 3.0


TIED = {"tie_word_embeddings": True}


def test_evaluation_is_the_same_on_every_topology(job: Job) -> None:
    two = job(
        "evaluation",
        2,
        [
            {"parallel": {"zero_stage": 3}},
            {"parallel": {"tensor_parallel_size": 2, "zero_stage": 1}},
            {"parallel": {"pipeline_parallel_size": 2, "zero_stage": 1}},
            {
                "parallel": {
                    "pipeline_parallel_size": 2,
                    "pipeline_schedule": "interleaved",
                    "virtual_pipeline_stages": 2,
                    "zero_stage": 3,
                }
            },
            {"model": TIED, "parallel": {"pipeline_parallel_size": 2}},
            {"model": TIED, "parallel": {"pipeline_parallel_size": 2}, "frozen": True},
            {"model": TIED, "parallel": {"tensor_parallel_size": 2}, "frozen": True},
        ],
    )
    alone, tied = job(
        "evaluation", 1, [{"parallel": {"zero_stage": 0}}, {"model": TIED, "parallel": {"zero_stage": 0}}]
    )
    assert tied[0] != pytest.approx(alone[0], rel=1e-4)
    for number, (total, tokens) in enumerate(two):
        expected = tied if number >= 4 else alone
        assert tokens == expected[1]
        assert total == pytest.approx(expected[0], rel=1e-6)


def test_deepspeed_autotp_on_the_hugging_face_model_agrees(job: Job) -> None:
    case = {"parallel": {"tensor_parallel_size": 2, "zero_stage": 1}, "model": {"vocab_size": 256}}
    found = job("autotp", 2, [case])
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-5)


def test_ranks_that_run_different_modules_are_noticed(job: Job) -> None:
    assert "different modules" in job("trace_check", 2, [{"parallel": {"zero_stage": 3}}])
