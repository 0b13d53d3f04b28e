"""A refused step changes neither language model nor encoders nor adaptors, on ranks with all of them or one half."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.spawn import run_ranks

FULL = {"language_model": "full", "molecule": "full", "protein": "lora"}
CASES: list[dict[str, Any]] = [
    {"content": "mixed", "stage": FULL, "parallel": {"zero_stage": 1}},
    {"content": "mixed", "stage": FULL, "beside": 1, "parallel": {"engine": "fsdp2"}},
    {"content": "mixed", "stage": {}, "placement": "zero3"},
    {"content": "mixed", "stage": {}, "beside": 1},
]


@pytest.mark.timeout(120)
def test_a_refused_step_of_an_alignment_equals_a_run_without_its_batch(tmp_path: Path) -> None:
    (tmp_path / "cases.json").write_text(json.dumps(CASES))
    command = [str(Path(__file__).with_name("gate_worker.py")), str(tmp_path / "cases.json"), str(tmp_path / "found")]
    run_ranks(2, command, tmp_path / "logs", 100)
    for case, found in zip(CASES, json.loads((tmp_path / "found").read_text()), strict=True):
        assert found == {"broken": 0, "applied": [True, False, True], "missed": 0, "clean": []}, case
