"""Every Triton kernel compiles for GPUs that are not here, within their registers and shared memory, without spills."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
ARCHITECTURES = [80, 90]


@cache
def compiled(arch: int, head_dims: tuple[int, ...]) -> list[dict[str, Any]]:
    """In another process: this one may have Triton in its interpreter."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "megabiomed.kernels.triton.compile", "--json", "--arch", str(arch), "--head-dims"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, *map(str, head_dims)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_resources(found: list[dict[str, Any]]) -> None:
    for row in found:
        assert row["spills"] == 0, row
        assert row["registers"] * row["warps"] * 32 <= 65536, row
        assert row["shared"] <= SHARED_LIMIT[row["arch"]], row


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_no_kernel_spills_or_exceeds_shared_memory(arch: int) -> None:
    found = compiled(arch, (128,))
    assert len(found) == (24 if arch == 90 else 21)
    check_resources(found)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_attention_uses_the_tensor_cores_and_rows_move_in_128_bit_loads(arch: int) -> None:
    for row in compiled(arch, (128,)):
        if row["kernel"].startswith(("attention forward", "attention backward")):
            assert row["tensor_core"] > 0, row
        if row["kernel"].startswith(("swiglu", "rms_norm_forward", "attention delta", "rope")):
            wide, loads = row["wide_loads"].split("/")
            assert wide == loads, row
        if row["kernel"] == "adamw":
            assert row["wide_loads"] == "8/9", row  # the ninth is the factor, one number


def test_hopper_kernels_are_specialised_and_every_release_waits_for_all_warps() -> None:
    found = [row for row in compiled(90, (128,)) if row["kernel"].startswith("hopper")]
    assert [row["tma_loads"] > 0 and row["tensor_core"] > 0 for row in found] == [True] * 3
    for row in found:
        assert row["warps"] == 12, row
        assert {24, 240} <= set(row["register_moves"]), row  # the producer's and the consumers'
        assert not row["serialized"], row
        assert row["unguarded"] == 0, row


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_head_size_compiles_without_spills(arch: int) -> None:
    check_resources(compiled(arch, (64, 80, 96)))


def test_a_release_that_does_not_wait_for_all_warps_is_counted() -> None:
    machine_code = pytest.importorskip("megabiomed.kernels.triton.machine_code")
    guarded = "wgmma.wait_group.sync.aligned 0;\nbar.sync 2, 128;\n@%p1 mbarrier.arrive.shared::cta.b64 _, [%r1];\n"
    expecting = "@%p1 mbarrier.arrive.expect_tx.shared.b64 _, [%r2], 32768;\n"
    filler = "add.s32 %r1, %r2, 1;\n" * 9
    assert machine_code._unguarded(guarded + filler + expecting) == 0
    assert machine_code._unguarded(guarded + filler + guarded.replace("bar.sync 2, 128;\n", "")) == 1
