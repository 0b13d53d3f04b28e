"""Weight gradients that accumulate in the product: the bits of the hooks where products are rounded, and a complete norm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.parity import read_case
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("parity_worker.py")
TOPOLOGIES: dict[str, dict[str, Any]] = {
    "dp2-zero1": {"zero_stage": 1},
    "dp2-zero3": {"zero_stage": 3},
    "pp2-interleaved-zero3": {
        "zero_stage": 3, "pipeline_parallel_size": 2, "pipeline_schedule": "interleaved", "virtual_pipeline_stages": 2,
    },
}  # fmt: skip
WAYS = ("hook", "bits", "auto")


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gradients")
    cases = [
        {
            "name": f"{name}-{way}",
            "precision": "bf16",
            "micro_batch_size": 2,
            "parallel": parallel,
            "kernels": {"weight_gradient": way},
        }
        for name, parallel in TOPOLOGIES.items()
        for way in WAYS
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    run_ranks(2, [str(WORKER), str(folder / "cases.json"), str(folder)], folder / "logs", timeout_s=280)
    return folder


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_rounded_products_give_the_bits_of_the_hooks(name: str, computed: Path) -> None:
    hook, bits = (read_case(computed / f"{name}-{way}") for way in ("hook", "bits"))
    assert bits["loss"] == hook["loss"]
    assert bits["grad_norm"] == hook["grad_norm"]
    for key, expected in hook["parameters"].items():
        assert torch.equal(bits["parameters"][key], expected), key


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_first_norm_counts_every_gradient(name: str, computed: Path) -> None:
    """Matrices that the engine does not know of leave a norm that is two thirds too small and a loss that looks right."""
    hook, auto = (read_case(computed / f"{name}-{way}") for way in ("hook", "auto"))
    assert auto["grad_norm"][0] == pytest.approx(hook["grad_norm"][0], rel=1e-4)
