"""The sections of `make bench-gpu`, in the order of their worth: which processes run and how their rows are read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
TINY = ["--documents=20,1,11", "--heads=8", "--kv-heads=2", "--head-dim=16", "--intermediate=24", "--vocabulary=50"]
TINY += ["--repeats=1"]
# Once each of what differs between kernels: head sizes, documents of one token and of exactly a block, GQA, determinism.
SELECTION = "production_windows or bits or nothing or (full_grid and triton and bf16 and (ragged or exact) and gqa8)"
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}


@dataclass(frozen=True)
class Asked:
    """What this run is asked for.

    Attributes:
        units: the only units that processes work on; empty: all.
    """

    tiny: bool
    layers: int
    units: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A process of a section.

    Attributes:
        command: an output file and the units follow it.
        read: the lines that the output file holds so far: rows, and `begin` and `end` of units.
        units: what the process does one after another; when it dies at one, another process does those after it.
    """

    name: str
    command: list[str]
    limit_s: float
    read: Callable[[Path], Rows]
    units: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the benchmark that is a command of its own.

    Attributes:
        by_default: whether it belongs to a run that names no sections.
    """

    name: str
    about: str
    limit_s: float
    parts: Callable[[Asked], list[Part]]
    by_default: bool = True


def read_lines(output: Path) -> Rows:
    """The whole lines of a worker's file."""
    if not output.exists():
        return []
    return [json.loads(line) for line in output.read_text().split("\n")[:-1]]


def worker(module: str, name: str, limit_s: float, *units: str, options: tuple[str, ...] = ()) -> Part:
    """A process of this folder that writes lines."""
    command = [sys.executable, "-W", "ignore", "-m", f"bench.{module}", *options]
    return Part(name, command, limit_s, read_lines, units, ALONE)


def correctness(asked: Asked) -> list[Part]:
    """The kernels' own checks, weight gradients against fp64, then the tests that differ between kernels."""
    units = ["check 128", "check 64", "gradients", f"pytest {'bounds_are_read' if asked.tiny else SELECTION}"]
    return [worker("gpu_correctness", "correctness", 240, *units)]


def grid(asked: Asked) -> list[Part]:
    """All correctness tests of the kernels."""
    return [worker("gpu_correctness", "all tests", 3600, "pytest bounds_are_read" if asked.tiny else "pytest")]


def kernels(ops: tuple[str, ...], *extra: str, limit_s: float = 120) -> Callable[[Asked], list[Part]]:
    """`megabiomed bench kernels` at Llama2-7B's shapes."""

    def parts(asked: Asked) -> list[Part]:
        command = [sys.executable, "-m", "megabiomed.cli", "bench", "kernels", *(f"--op={op}" for op in ops)]
        command += [*(TINY if asked.tiny else ()), *extra, "--output"]
        return [Part(" ".join([*ops, *extra]), command, limit_s, read_kernels)]

    return parts


def several(*makers: Callable[[Asked], list[Part]]) -> Callable[[Asked], list[Part]]:
    """The processes of all of them."""
    return lambda asked: [part for maker in makers for part in maker(asked)]


def read_kernels(output: Path) -> Rows:
    """What `bench kernels --output` has written so far: the roofline, then a row for each candidate."""
    try:
        record = json.loads(output.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # it is being written
        return []
    roofline = {"TFLOP/s": f"{record['roofline']['tflops']:.4g}", "GB/s": f"{record['roofline']['gbytes']:.4g}"}
    case = {"section": "roofline", "case": record["rows"][0]["op"] if record["rows"] else ""}
    return [case | roofline, *(_kernel_row(row) for row in record["rows"])]


def _kernel_row(row: dict[str, Any]) -> dict[str, Any]:
    def both(name: str, form: str) -> str:
        values = [row[f"{side}_{name}"] for side in ("forward", "backward")]
        return " / ".join(form.format(value) for value in values if value is not None)

    return {
        "op": row["op"],
        "case": row["case"],
        "candidate": row["candidate"],
        "auto": "takes it" if row["chosen"] else "",
        "forward / backward ms": both("ms", "{:.3f}"),
        "rate": both("rate", "{}"),
        "of roofline": both("share", "{:.2f}"),
        "note": row["note"],
    }


def steps(section: str, limit_s: float, *units: str, profile: str = "no") -> Callable[[Asked], list[Part]]:
    """Candidates of the training step, in one process while none of them dies."""

    def parts(asked: Asked) -> list[Part]:
        layers = 1 if asked.tiny else asked.layers
        return [
            worker("gpu_step_worker", section, limit_s, *units, options=(f"--layers={layers}", f"--profile={profile}"))
        ]

    return parts


def saves(asked: Asked) -> list[Part]:
    """What a save costs the steps after it."""
    options = ("--tiny",) if asked.tiny else ()
    return [worker("gpu_save", "save", 200, "megabiomed, ZeRO-1", "torch DCP async_save, FSDP2", options=options)]


def starts(asked: Asked) -> list[Part]:
    """From the command to the first step."""
    size = 1 if asked.tiny else asked.layers
    options = (f"--layers={size}", *(("--tiny",) if asked.tiny else ()))
    return [worker("gpu_start", "start", 120, "first start", "second start", options=options)]


def fp8(asked: Asked) -> list[Part]:
    """The step in fp8, and how far its loss is from that of bf16."""
    options = ("--tiny",) if asked.tiny else ()
    return [
        *steps("fp8", 90, "fp8")(asked),
        worker("gpu_fp8_loss", "fp8 loss", 120, "fp8 beside bf16", options=options),
    ]


PEERS = ("transformers flex compiled", "transformers cudnn compiled", "transformers flex liger")
STEP = steps("step", 180, "zero1", "zero3", profile="also")
DUEL = steps("duel", 240, "zero1", PEERS[0], "zero3", PEERS[1], profile="also")
PROFILE = steps("profile", 120, "zero1", "zero3", profile="only")
OTHERS = kernels(("norm", "swiglu", "loss", "adamw"))
SHAPES = several(
    kernels(("attention",), "--kv-heads=4", limit_s=70),
    kernels(("attention",), "--kv-heads=8", limit_s=70),
    kernels(("attention",), "--heads=64", "--kv-heads=64", "--head-dim=64", limit_s=70),
)
SECTIONS = [
    Section("correctness", "self-checks of the Hopper kernels, and a selection of the tests", 240, correctness),
    Section("attention", "every backend, cuDNN SDPA, FlexAttention, FlashAttention", 150, kernels(("attention",))),
    Section("step", "training step under ZeRO-1 and ZeRO-3, 1 and 4 micro-batches; a profile of each", 180, STEP),
    Section("peers", "the same step with transformers: flex, cuDNN SDPA, Liger", 240, steps("peers", 240, *PEERS)),
    Section("other-kernels", "norm, SwiGLU, head and loss, AdamW", 120, OTHERS),
    Section("save", "lost step time of a save, ours and torch's", 200, saves),
    Section("start", "from the command to the first step, phase by phase", 120, starts),
    Section("fp8", "training step with train.precision: fp8; its loss after 200 steps beside bf16", 200, fp8),
    Section("fsdp2", "training step under FSDP2", 120, steps("fsdp2", 120, "fsdp2")),
    Section("attention-shapes", "GQA 8:1 and 4:1, head size 64", 210, SHAPES),
    Section("duel", "step and its best peers in one process, with profiles of all", 240, DUEL, by_default=False),
    Section("profile", "profile and host waits of the step alone", 120, PROFILE, by_default=False),
    Section("grid", "all correctness tests of the kernels, an hour", 3600, grid, by_default=False),
]
