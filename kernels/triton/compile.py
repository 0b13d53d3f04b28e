"""Compile every Triton kernel for GPUs that this machine need not have, at production shapes, and read the resources used.

python -m megabiomed.kernels.triton.compile --arch 90 --head-dims 128          a Markdown table
python -m megabiomed.kernels.triton.compile --arch 80 --json                   one JSON object per kernel

Integer arguments that the launcher would specialise as multiples of 16 are marked so here too; without that mark another
kernel is measured (no 128-bit loads, twice the registers).
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

from megabiomed.kernels.gluon import backward as hopper_backward
from megabiomed.kernels.gluon import forward as hopper_forward
from megabiomed.kernels.gluon import launch as hopper
from megabiomed.kernels.loss_chunks import IGNORE_INDEX
from megabiomed.kernels.triton import adamw, document_attention, rms_norm, swiglu, vocabulary
from megabiomed.kernels.triton.attention_op import ROWS
from megabiomed.kernels.triton.launch import warps_for
from megabiomed.kernels.triton.machine_code import Resources, read
from megabiomed.kernels.triton.tiles import HALF, Tile

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes per program
MULTIPLES_OF_16 = re.compile(r"^(stride(_\w+)?|T|N|SIZE)$")
BF16 = "*bf16"
FP32 = "*fp32"
INT32 = "*i32"
INT64 = "*i64"
POINTERS = {
    **dict.fromkeys(
        ("LSE", "DELTA", "COS", "SIN", "RSTD", "OWN", "SOFTMAX_WEIGHT", "LABEL_WEIGHT", "DW", "LOSS", "FACTOR"), FP32
    ),
    **dict.fromkeys(("START", "END"), INT32),
    "TARGET": INT64,
}
"""Pointers that are the same in every kernel that has them; all others point to bf16."""
SCALARS = (
    "eps",
    "scale",
    "scale2",
    "sign",
    "lr",
    "beta1",
    "beta2",
    "weight_decay",
    "correct1",
    "correct2",
    "z_loss",
)  # fp32


@dataclass(frozen=True)
class Job:
    """One kernel at one production shape; `boxes` gives the box of each tensor descriptor of a Gluon kernel."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    warps: int
    stages: int = 3
    boxes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def jobs(arch: int, head_dims: list[int]) -> Iterator[Job]:
    """Every kernel: Llama2-7B's rows (4096, 11008, 32000) and each head size with 32 query and 8 key/value heads."""
    yield from _row_jobs()
    for d in head_dims:
        yield from _attention_jobs(arch, d)
    for d in head_dims:
        if arch == 90 and d in hopper.HEAD_SIZES:
            yield from _hopper_jobs(d)


def _row_jobs() -> Iterator[Job]:
    for hidden in (4096, 8192):
        for add in (False, True):
            shape = {"B": hidden, "ADD": add, "ACC": tl.float32}
            suffix = f" {hidden}" + (" + add" if add else "")
            yield Job("rms_norm_forward" + suffix, rms_norm.rms_norm_forward, shape, warps_for(hidden))
            shape = {**shape, "STAGES": rms_norm.stages_for(hidden)}
            yield Job("rms_norm_backward" + suffix, rms_norm.rms_norm_backward, shape, warps_for(hidden))
    yield Job("sum_of_partials", rms_norm.sum_of_partials, dict(zip("RB", rms_norm.SUM_TILE)), 4)
    for kernel in (swiglu.swiglu_forward, swiglu.swiglu_backward):
        yield Job(kernel.__name__, kernel, {"B": swiglu.BLOCK, "ACC": tl.float32}, 4)
    shape = {"B": vocabulary.BLOCK, "ACC": tl.float32}
    for kernel in (vocabulary.vocabulary_statistics, vocabulary.vocabulary_gradient, vocabulary.rescale_unless_one):
        yield Job(kernel.__name__, kernel, shape, 8)
    constants = {**shape, "B": vocabulary.LOSS_BLOCK, "IGNORE": IGNORE_INDEX}
    yield Job("loss_and_gradient", vocabulary.loss_and_gradient, constants, vocabulary.LOSS_WARPS)
    yield Job("adamw", adamw.adamw, {"B": adamw.BLOCK}, 8)


def _attention_jobs(arch: int, d: int) -> Iterator[Job]:
    padded = max(16, triton.next_power_of_2(d))
    tiles = HALF[arch, 64 if padded <= 64 else 128]
    shape = {"HQ": 32, "HKV": 8, "D": d, "P": padded, "ROPE": True}
    for label, kernel, tile in (
        ("forward", document_attention.attention_forward, tiles.forward),
        ("backward k, v", document_attention.attention_backward_kv, tiles.backward_kv),
        ("backward q", document_attention.attention_backward_q, tiles.backward_q),
    ):
        yield _tiled(f"attention {label} d{d}", kernel, shape, tile)
    yield Job(f"attention delta d{d}", document_attention.attention_delta, {"D": d, "P": padded, "M": ROWS}, 4)
    yield Job(f"rope d{d}", document_attention.rope, {"D": d, "P": padded, "B": ROWS}, 4)


def _hopper_jobs(d: int) -> Iterator[Job]:
    part = (hopper.PART, d)
    n, stages = hopper.FORWARD[d]
    shape = {"HQ": 32, "HKV": 8, "D": d, "ROPE": True}
    boxes: dict[str, tuple[int, ...]] = {"kd": (n, d), "vd": (n, d), "od": part}
    constants = {**shape, "N": n, "STAGES": stages}
    yield Job(f"hopper forward d{d} 128x{n}", hopper_forward.attention_forward, constants, 4, stages, boxes)
    m, stages = hopper.BACKWARD_KV[d]
    boxes = {
        "qd": (m, d),
        "dod": (m, d),
        "lsed": (m,),
        "deltad": (m,),
        "kd": part,
        "vd": part,
        "dkd": part,
        "dvd": part,
    }
    constants = {**shape, "M": m, "STAGES": stages}
    yield Job(f"hopper backward k, v d{d} {m}x128", hopper_backward.attention_backward_kv, constants, 4, stages, boxes)
    n, stages = hopper.BACKWARD_Q[d]
    boxes = {"qd": part, "dod": part, "kd": (n, d), "vd": (n, d), "dqd": part}
    constants = {**shape, "N": n, "STAGES": stages}
    yield Job(f"hopper backward q d{d} 128x{n}", hopper_backward.attention_backward_q, constants, 4, stages, boxes)


def _tiled(name: str, kernel: Any, shape: dict[str, Any], tile: Tile) -> Job:
    return Job(f"{name} {tile.m}x{tile.n}", kernel, {**shape, "M": tile.m, "N": tile.n}, tile.warps, tile.stages)


def compile_job(job: Job, arch: int) -> Resources:
    """Compile for an architecture and disassemble."""
    names = job.kernel.arg_names
    signature = {name: _type_of(name, job) for name in names}
    attributes = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if signature[name].startswith("*") or (signature[name] == "i32" and MULTIPLES_OF_16.match(name))
    }
    constants = {(names.index(name),): value for name, value in job.constants.items()}
    source = (GluonASTSource if job.boxes else ASTSource)(job.kernel, signature, constants, attributes)
    options = {"num_warps": job.warps, "num_stages": job.stages}
    return read(job.name, arch, job.stages, triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options))


def _type_of(name: str, job: Job) -> str:
    if name in job.constants:
        return "constexpr"
    if name in job.boxes:
        box = job.boxes[name]
        dtype = gl.float32 if len(box) == 1 else gl.bfloat16
        return f"tensordesc<{dtype.name}[{', '.join(map(str, box))}],{hopper.layout_of(box, dtype)!r}>"
    if name in SCALARS:
        return "fp32"
    if job.name == "adamw" and name != "N":
        return BF16 if name == "COPY" else FP32
    if name in POINTERS:
        return POINTERS[name]
    return "i32" if MULTIPLES_OF_16.match(name) or name in ("BLOCKS", "COUNT") else BF16


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--arch", type=int, choices=sorted(SHARED_LIMIT), required=True)
    options.add_argument("--head-dims", type=int, nargs="+", default=[64, 80, 96, 128])
    options.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    asked = options.parse_args()
    if not asked.json:
        print("| kernel | warps | stages | registers | spills | shared KiB | tensor core | 128-bit loads | TMA loads |")
        print("|---|---|---|---|---|---|---|---|---|")
    for job in jobs(asked.arch, asked.head_dims):
        used = compile_job(job, asked.arch)
        print(json.dumps(asdict(used)) if asked.json else _row(used), flush=True)


def _row(used: Resources) -> str:
    moves = f" ({' / '.join(map(str, used.register_moves))})" if used.register_moves else ""
    cells = (used.kernel, used.warps, used.stages, f"{used.registers}{moves}", used.spills, f"{used.shared / 1024:.1f}")
    return "| " + " | ".join(map(str, (*cells, used.tensor_core, used.wide_loads, used.tma_loads))) + " |"


if __name__ == "__main__":
    main()
