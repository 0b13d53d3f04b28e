"""Clip, step and cast in one pass leave the bits of torch's AdamW between passes of their own, under every engine."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.parity import OPTIMIZER, case_config
from support.spawn import run_ranks
from support.stores import make_store

from megabiomed.config.optimizers import ADAMW
from megabiomed.engine.base import state_before_training
from megabiomed.engine.fused_adamw import FusedAdamW, clip_scale, optimizer_of, steps_in_one_pass
from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

ANY = Path(__file__).parents[1] / "checkpoint" / "any_worker.py"
WORKER = Path(__file__).with_name("parity_worker.py")
PLAIN = {"optimizer": {"kind": "support.plain_adamw:PLAIN"}}
ENGINES: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"zero_stage": stage} for stage in range(4)},
    "fsdp2": {"engine": "fsdp2"},
    "pp2-zero1": {"zero_stage": 1, "pipeline_parallel_size": 2},
    "tp2-zero3": {"zero_stage": 3, "tensor_parallel_size": 2},
}
CASES = {
    f"{name}-{precision}": {"parallel": parallel, "precision": precision, "micro_batch_size": 2}
    for (name, parallel), precision in product(ENGINES.items(), ("fp32", "bf16"))
    # ZeRO-0 refuses bf16; where the ranks stand changes which elements they hold, whatever the precision.
    if precision == "fp32" or name in {"zero1", "zero3", "fsdp2"}
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps of each case, as the engines step, and with torch's optimizer."""
    found = tmp_path_factory.mktemp("fused")
    cases = [{"name": name, **case} for name, case in CASES.items()]
    cases += [{"name": f"{name}-plain", **case, **PLAIN} for name, case in CASES.items()]
    (found / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, [str(WORKER), str(found / "cases.json"), str(found)], found / "logs", timeout_s=280)
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CASES)
def test_every_engine_keeps_the_bits_of_separate_passes(name: str, folder: Path) -> None:
    ours, theirs = (json.loads((folder / case / "curve.json").read_text()) for case in (name, f"{name}-plain"))
    assert ours == theirs
    assert max(ours["grad_norm"]) > OPTIMIZER["clip_grad_norm"]  # it clips
    for rank in range(2):
        ours, theirs = (load_file(folder / case / f"rank_{rank}.safetensors") for case in (name, f"{name}-plain"))
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            assert torch.equal(tensor, theirs[key]), key


TOPOLOGIES = {"zero1": (2, {"zero_stage": 1}), "fsdp2": (2, {"engine": "fsdp2"})}


@pytest.mark.timeout(500)
def test_a_run_that_torchs_optimizer_saved_goes_on_with_its_bits_on_any_topology(tmp_path: Path) -> None:
    text = "\n".join(f"Patient {n} received {n * 3} mg of aspirin versus placebo." for n in range(400))
    train_tokenizer(iter([text]), tmp_path / "tokenizer.model", 300)
    make_store(tmp_path / "store", tmp_path / "tokenizer.model", [5, 40, 17, 3, 60, 24] * 12)
    (tmp_path / "table.json").write_text(json.dumps(TOPOLOGIES))

    def ranks(mode: str, optimizer: dict[str, str]) -> dict[str, Any]:
        command = [str(ANY), mode, str(tmp_path / "table.json"), str(tmp_path), json.dumps(optimizer)]
        run_ranks(2, command, tmp_path / "logs", timeout_s=200)
        return {file.name: json.loads(file.read_text()) for file in tmp_path.glob("*<*.json")}

    ranks("save", PLAIN["optimizer"])
    theirs, ours = ranks("load", PLAIN["optimizer"]), ranks("load", {})
    assert len(ours) == len(TOPOLOGIES) ** 2
    assert ours == theirs


@pytest.mark.parametrize("max_norm", [0.0, 0.5])
@pytest.mark.parametrize("norm", [float("nan"), float("inf"), -1.0])
def test_a_norm_that_is_none_scales_to_nan(norm: float, max_norm: float) -> None:
    for inverted in (False, True):
        assert torch.isnan(clip_scale(torch.tensor(norm, dtype=torch.float64), max_norm, inverted=inverted))


def test_the_factor_brings_the_norm_to_the_limit_and_never_up_to_it() -> None:
    for inverted in (False, True):
        assert clip_scale(torch.tensor(2.0), 0.5, inverted=inverted) == pytest.approx(0.25, rel=1e-6)
        assert clip_scale(torch.tensor(0.1), 0.5, inverted=inverted) == 1.0
        assert clip_scale(torch.tensor(2.0), 0.0, inverted=inverted) == 1.0


def test_a_step_without_a_finite_norm_changes_nothing_and_is_not_counted() -> None:
    weight = torch.nn.Parameter(torch.ones(4))
    config = case_config({"name": "alone"})
    optimizer = FusedAdamW([{"params": [weight]}], config)
    optimizer.state[weight] = state_before_training(ADAMW, weight, count_on_host=True)
    weight.grad = torch.full((4,), float("inf"))
    optimizer.read_scale = lambda: clip_scale(torch.tensor(float("inf")), 0.5)
    optimizer.step()
    optimizer.forget_step()
    assert torch.equal(weight, torch.ones(4))
    assert float(optimizer.state[weight]["step"]) == 0
    weight.grad = torch.ones(4)
    optimizer.read_scale = lambda: torch.ones(())
    optimizer.step()
    assert float(optimizer.state[weight]["step"]) == 1
    assert float(weight[0]) == pytest.approx(1 - config.optimizer.lr, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "one_pass"),
    [
        ({}, True),
        (PLAIN, False),
        ({"parallel": {"zero_stage": 1, "offload_optimizer": True}}, False),
    ],
)
def test_torch_steps_what_is_on_the_host_or_another_rule(values: dict[str, Any], one_pass: bool) -> None:
    config = case_config({"name": "alone", **values})
    assert steps_in_one_pass(config) is one_pass
    optimizer = optimizer_of([{"params": [torch.nn.Parameter(torch.ones(1))]}], config)
    assert isinstance(optimizer, FusedAdamW) is one_pass
