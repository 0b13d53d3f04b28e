"""`make bench-gpu` without a GPU: what it keeps when processes die, how results are merged, classes of kernels, goals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import bench_gpu
from bench.bench_gpu import Bench
from bench.gpu_goals import GOALS, goals
from bench.gpu_profile import summary
from bench.gpu_results import Results
from bench.gpu_sections import SECTIONS, Asked, Part, read_lines
from bench.gpu_start import sentencepiece_model
from bench.host_syncs import counted_syncs
from megabiomed.runs.kernel_classes import Span, busy, class_of

TESTS = Path(__file__).resolve().parents[1]

WORKER = """
import os, sys, time
from pathlib import Path
from bench.lines import Lines
lines = Lines(Path(sys.argv[1]))
def work(unit):
    lines.row(case="c", candidate=unit, result="measured")
    if unit == "dies":
        os._exit(9)
    if unit == "raises":
        raise ValueError("no such layer")
lines.each(sys.argv[2:], work)
"""


def part(*units: str, script: str = WORKER) -> Part:
    return Part("part", [sys.executable, "-c", script], 60, read_lines, units)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(Asked(tiny=True, layers=1), Results(tmp_path, "abc"), tmp_path, 600)


def test_a_process_that_dies_costs_its_unit_and_another_one_goes_on(bench: Bench, tmp_path: Path) -> None:
    bench.part("section", part("first", "dies", "raises", "last"), bench.ends)
    held = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert [row["candidate"] for row in held if row["section"] == "time"] == ["first", "raises", "last"]
    assert [(row["candidate"], row["result"]) for row in held if row["section"] == "section"] == [
        ("first", "measured"), ("dies", "measured"), ("dies", "failed (9): no message"), ("raises", "measured"),
        ("raises", "failed: ValueError: no such layer"), ("last", "measured"),
    ]  # fmt: skip


def test_a_process_that_hangs_is_ended_and_what_it_measured_stays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_gpu, "SHORTEST_S", 0.0)
    script = WORKER.replace("os._exit(9)", "time.sleep(600)")
    hanging = Part("part", [sys.executable, "-c", script], 6, read_lines, ("first", "dies"))
    bench.part("section", hanging, bench.ends)
    assert [row["result"] for row in bench.results.rows if "result" in row] == [
        "measured",
        "measured",
        "out of time after 6 s",
    ]


def test_without_time_every_unit_says_that_it_did_not_run(bench: Bench) -> None:
    bench.part("section", part("first", "last"), 0.0)
    assert {row["candidate"]: row["result"] for row in bench.results.rows} == {
        "first": "not run: no time left", "last": "not run: no time left"
    }  # fmt: skip


def test_a_section_replaces_only_its_own_rows_when_it_is_finished(tmp_path: Path) -> None:
    before = Results(tmp_path, "old")
    before.run = "2026-01-01"
    before.runs = {"2026-01-01": {"device": "old device", "commit": "old", "versions": {}}}
    for section in ("norm", "loss"):
        for candidate in ("a", "b"):
            before.add(section, {"case": "c", "candidate": candidate, "ms": 1})
    now = Results(tmp_path, "new")
    now.add("norm", {"case": "c", "candidate": "a", "ms": 2})
    held = json.loads((tmp_path / "gpu.json").read_text())
    assert [(row["section"], row["candidate"], row["ms"]) for row in held["results"]] == [
        ("norm", "a", 2), ("norm", "b", 1), ("loss", "a", 1), ("loss", "b", 1)
    ]  # fmt: skip
    assert {run["commit"] for run in held["runs"].values()} == {"old", "new"}
    now.finish("norm")
    assert [(row["section"], row["candidate"]) for row in now.rows] == [("norm", "a"), ("loss", "a"), ("loss", "b")]
    assert "## loss\n\nRun of 2026-01-01." in (tmp_path / "gpu.md").read_text()


def test_every_section_is_a_command_of_at_most_four_minutes() -> None:
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)
    assert all(section.limit_s <= 240 for section in SECTIONS if section.by_default)
    assert all(section.parts(Asked(tiny=tiny, layers=6)) for section in SECTIONS for tiny in (True, False))


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        ("nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NNT", "matrix products"),
        ("void cutlass::device_kernel<at::cuda::detail::enable_3x_kernel_for_sm9x>", "matrix products"),
        ("attention_backward_kv", "attention"),
        ("rope", "attention"),
        ("rms_norm_backward", "norm"),
        ("swiglu_forward", "SwiGLU"),
        ("vocabulary_statistics", "loss"),
        ("void at::native::(anonymous)::multi_tensor_apply_kernel<FusedAdamMathFunctor>", "optimizer"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>", "accumulation"),
        ("void at::native::unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda>", "copies and casts"),
        ("Memcpy DtoD (Device -> Device)", "copies and casts"),
        ("void at::native::(anonymous)::CatArrayBatchedCopy<float>", "copies and casts"),
        ("Memset (Device)", "fills"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication"),
        ("void at::native::reduce_kernel<512>", "other"),
    ],
)
def test_kernels_belong_to_classes_by_their_names(kernel: str, expected: str) -> None:
    assert class_of(kernel) == expected


def test_gaps_are_the_time_in_which_no_kernel_runs() -> None:
    spans = [
        Span("gemm", 1_000_000, 3_000_000),
        Span("ncclAllReduce", 2_000_000, 4_000_000),
        Span("rope", 5_000_000, 6_000_000),
    ]
    assert busy(spans) == (5_000_000, 4_000_000)
    found = {row["candidate"]: (row["ms"], row["share"]) for row in summary(spans)}
    assert found["matrix products"] == (2.0, "40.0%")
    assert found["gaps"] == (1.0, "20.0%")
    assert found["overlap"] == (1.0, "20.0%")
    assert found["whole step"] == (5.0, "100.0%")


def test_a_host_wait_is_counted_with_the_line_that_waits() -> None:
    def waits() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)  # as torch does on a GPU

    with counted_syncs() as places:
        waits()
        waits()
        warnings.warn("something else", stacklevel=1)
    ((place, first), (_, second)) = places.items()
    assert "bench/test_bench_gpu.py" in place
    assert "waits" in place
    assert (first, second) == (1, 1)


def test_an_explicit_wait_for_the_device_is_counted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", called.append)
    with counted_syncs() as places:
        torch.cuda.synchronize("all of it")
    torch.cuda.synchronize("afterwards")
    assert called == ["all of it", "afterwards"]
    assert [(count, "bench/test_bench_gpu.py" in place) for place, count in places.items()] == [(1, True)]


def test_goals_compare_times_shares_and_ratios() -> None:
    def kernel(op: str, candidate: str, ms: str, **values: str) -> dict[str, Any]:
        section = "attention" if op == "attention" else "other-kernels"
        return {"section": section, "op": op, "candidate": candidate, "forward / backward ms": ms, **values}

    def step(candidate: str, **values: Any) -> dict[str, Any]:
        return {"section": "step", "case": "", "candidate": candidate, "micro-batches": 4, **values}

    rows = [
        kernel("attention", "hopper", "0.350 / 1.700", auto="takes it"),
        kernel("norm", "triton", "0.1 / 0.2", auto="takes it", **{"of roofline": "0.70 / 0.86"}),
        kernel("loss", "triton", "9.0 / 0.5", auto="takes it"),
        kernel("loss", "liger", "9.6 / 0.8"),
        kernel("adamw", "triton", "5.000"),
        kernel("adamw", "torch", "8.000", auto="takes it"),
        step("megabiomed zero1, auto (hopper)", seconds=0.5, MFU="0.612", **{"tokens/s": 120, "peak memory GiB": 30.0}),
        step("megabiomed zero3, auto (hopper)", seconds=0.51, MFU="0.60", **{"tokens/s": 118, "peak memory GiB": 31.0}),
        step("transformers flex compiled", MFU="n/a", **{"tokens/s": 100, "peak memory GiB": 31.8}),
        {"section": "start", "case": "first start", "candidate": "step 1 done", "seconds after the command": 46.2},
        {"section": "save", "case": "", "candidate": "megabiomed, ZeRO-1", "of 500 steps": "0.45%"},
    ]
    by_name = {row["goal"]: (row["found"], row["reached"]) for row in goals(rows)}
    assert len(by_name) == len(GOALS)
    assert by_name["attention forward, with RoPE"] == ("0.350 ms", "yes")
    assert by_name["attention backward, with RoPE"] == ("1.700 ms", "no")
    assert by_name["add + RMSNorm backward, of the copy rate"] == ("86.0%", "yes")
    assert by_name["head and loss, forward and backward, Liger's time over ours"] == ("1.09 x", "yes")
    assert by_name["AdamW, torch's time with clip and cast over ours"] == ("1.60 x", "yes")
    assert by_name["MFU, 4 micro-batches, ZeRO-1"] == ("61.2%", "no")
    assert by_name["tokens/s over the best peer's, 4 micro-batches"] == ("1.20 x", "yes")
    assert by_name["peak memory over the leanest peer's"] == ("0.94 x", "yes")
    assert by_name["ZeRO-3 step over ZeRO-1 step"] == ("1.020 x", "yes")
    assert by_name["start, seconds to the first step, 1.4 B"] == ("46 s", "no")
    assert by_name["save, lost step time, of 500 steps"] == ("0.45%", "yes")
    assert by_name["SwiGLU backward, of the copy rate"] == ("not measured", "")


def test_the_tokenizer_of_the_start_has_as_many_pieces_as_asked_for(tmp_path: Path) -> None:
    from megabiomed.tokenizer.files import open_tokenizer

    file = tmp_path / "tokenizer.model"
    file.write_bytes(sentencepiece_model(1000))
    assert open_tokenizer(file).vocab_size == 1000


def rehearse(output: Path, *sections: str) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "-W", "ignore", "-m", "bench.bench_gpu", "--device", "cpu", "--tiny"]
    command += ["--output", str(output), *(f"--section={name}" for name in sections)]
    done = subprocess.run(
        command, cwd=TESTS, env=dict(os.environ), capture_output=True, text=True, timeout=580, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads((output / "gpu.json").read_text())["results"]:
        found.setdefault(row["section"], []).append(row)
    return found


def test_the_training_step_is_rehearsed_with_its_profile(tmp_path: Path) -> None:
    found = rehearse(tmp_path, "step")
    assert [(row["candidate"].split(",")[0], row["micro-batches"]) for row in found["step"]] == [
        ("megabiomed zero1", 1), ("megabiomed zero1", 4), ("megabiomed zero3", 1), ("megabiomed zero3", 4)
    ]  # fmt: skip
    assert all(row["tokens/s"] > 0 for row in found["step"])
    assert {"zero1, 4 micro-batches", "zero3, 4 micro-batches"} == {row["case"] for row in found["profile"]}
    assert "| MFU, 4 micro-batches, ZeRO-1 | >= 62.0% | not measured |  |" in (tmp_path / "gpu.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_whole_rehearsal(tmp_path: Path) -> None:
    names = [section.name for section in SECTIONS if section.by_default and section.name != "correctness"]
    found = rehearse(tmp_path, *names)
    failed = {
        row["candidate"] for rows in found.values() for row in rows if str(row.get("result", "")).startswith("failed")
    }
    # FlexAttention has no backward pass on a CPU, and Liger is for GPUs.
    assert failed <= {"transformers flex compiled", "transformers flex liger"}
    assert set(names) <= set(found)
