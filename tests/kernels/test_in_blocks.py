"""Whole training steps on two tensor ranks: forced kernels equal the automatic ones, also under recomputation."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.spawn import run_ranks

WORKER = Path(__file__).with_name("blocks_worker.py")


@pytest.mark.timeout(200)
def test_steps_with_triton_kernels_equal_the_automatic_ones(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("the ranks run on CPUs, where Triton needs its interpreter")
    run_ranks(2, [str(WORKER), str(tmp_path)], tmp_path / "logs", timeout_s=180)
    curves = json.loads((tmp_path / "curves.json").read_text())
    pairs = [("auto", "plain"), ("auto", "triton"), ("auto", "triton recomputed"), ("auto z-loss", "triton z-loss")]
    for ours, theirs in pairs:
        for got, expected in zip(curves[ours], curves[theirs]):
            assert got == pytest.approx(expected, rel=1e-5), (ours, theirs)
    assert curves["auto"][0][0] < curves["auto z-loss"][0][0]
