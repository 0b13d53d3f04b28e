"""Clip, step and cast in one pass leave the bits of torch's AdamW between passes of their own, under every engine."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.parity import OPTIMIZER
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("parity_worker.py")
PLAIN = {"optimizer": {"kind": "support.plain_adamw:PLAIN"}}
ENGINES: dict[str, dict[str, Any]] = {
    **{f"zero{stage}": {"zero_stage": stage} for stage in range(4)},
    "fsdp2": {"engine": "fsdp2"},
    "pp2-zero1": {"zero_stage": 1, "pipeline_parallel_size": 2},
    "tp2-zero3": {"zero_stage": 3, "tensor_parallel_size": 2},
}
CASES = {
    f"{name}-{precision}": {"parallel": parallel, "precision": precision}
    for (name, parallel), precision in product(ENGINES.items(), ("fp32", "bf16"))
    if (name, precision) != ("zero0", "bf16")  # refused
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
