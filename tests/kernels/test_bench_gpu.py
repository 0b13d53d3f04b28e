"""`make bench-gpu` rehearsed on a CPU at toy sizes: it runs, keeps what it has, and says what failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.gpu_goals import GOALS, goals

TESTS = Path(__file__).resolve().parents[1]


def rehearse(output: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.bench_gpu", "--device", "cpu", "--tiny"]
    command += ["--output", str(output), "--layers", "1", *arguments]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record: dict[str, Any] = json.loads((output / "gpu.json").read_text())
    return record


def test_a_section_that_fails_leaves_a_row_and_the_next_one_starts(tmp_path: Path) -> None:
    record = rehearse(tmp_path, *(f"--only={name}" for name in ("self-check", "attention GQA", "step megabiomed")))
    checks = [row for row in record["results"] if row["section"] == "self-check"]
    assert [row["result"] for row in checks] == ["failed (1): no CUDA device"]
    (chosen,) = [row for row in record["results"] if row.get("candidate", "").endswith("(auto)")]
    assert chosen["case"].startswith("rope + attention 32 x 8/8 x 16")
    assert float(chosen["forward / backward ms"].split(" / ")[1]) > 0
    assert "TFLOP/s" in record["notes"][0]
    (step,) = [row for row in record["results"] if row["section"] == "step megabiomed"]
    assert step["tokens/s"] > 0
    page = (tmp_path / "gpu.md").read_text()
    assert "## attention GQA" in page
    assert "| training step, MFU | >= 0.6 | not measured |  |" in page


def test_without_budget_every_section_says_that_it_did_not_run(tmp_path: Path) -> None:
    record = rehearse(tmp_path, "--budget-seconds", "0")
    assert len(record["results"]) == 14
    assert {row["result"] for row in record["results"]} == {"not run: the budget is spent"}
    assert record["complete"] is False


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_whole_rehearsal(tmp_path: Path) -> None:
    record = rehearse(tmp_path, "--budget-seconds", "270")
    failed = {row["section"]: row["result"] for row in record["results"] if row.get("result", "passed") != "passed"}
    assert set(failed) == {"self-check", "step megabiomed hopper", "step transformers liger"}
    steps = [row for row in record["results"] if row.get("tokens/s")]
    assert [row["candidate"] for row in steps] == ["megabiomed", "transformers sdpa"]


def test_goals_compare_times_and_ratios() -> None:
    def row(candidate: str, ms: str) -> dict[str, str]:
        return {"candidate": candidate, "forward / backward ms": ms}

    found = {
        "attention": [row("hopper", "0.350 / 1.700"), row("flash3 (auto)", "0.400 / 1.000")],
        "adamw": [row("triton", "5.000"), row("torch (auto)", "8.000")],
        "step megabiomed": [{"MFU": "0.612"}],
    }
    by_name = {row["goal"]: (row["found"], row["reached"]) for row in goals(found)}
    assert len(by_name) == len(GOALS) + 1
    assert by_name["attention forward, Hopper kernel"] == ("0.350 ms", "yes")
    assert by_name["attention backward, Hopper kernel, deterministic"] == ("1.700 ms", "no")
    assert by_name["RoPE + attention forward against flash-attn 3"] == ("1.14 x", "yes")
    assert by_name["AdamW against torch with clip and cast"] == ("1.60 x", "yes")
    assert by_name["training step, MFU"] == ("0.612", "yes")
    assert by_name["SwiGLU forward"] == ("not measured", "")
