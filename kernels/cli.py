"""`megabiomed bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabiomed.ground.errors import ConfigError

if TYPE_CHECKING:
    from megabiomed.kernels.bench_cases import Shapes

bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks of this machine.")

OPS = ("attention", "norm", "swiglu", "loss", "adamw")


@bench_app.callback()
def _root() -> None:
    """Benchmarks of this machine."""


@bench_app.command(
    epilog="Example: megabiomed bench kernels --op attention --documents 2048,4096,2048 --heads 32 --head-dim 128"
)
def kernels(
    op: Annotated[
        list[str] | None, typer.Option(help="attention, norm, swiglu, loss or adamw; repeat the option; default: all.")
    ] = None,
    documents: Annotated[str | None, typer.Option(help="Lengths of the packed documents, in tokens.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Query heads.")] = None,
    kv_heads: Annotated[
        int | None, typer.Option(min=1, help="Key/value heads; default: as many as query heads.")
    ] = None,
    head_dim: Annotated[int | None, typer.Option(min=2, help="Size of a head.")] = None,
    intermediate: Annotated[int | None, typer.Option(min=1, help="Width of SwiGLU.")] = None,
    vocabulary: Annotated[int | None, typer.Option(min=2, help="Rows of the output head.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32 or bf16; default: bf16 on a GPU, fp32 on a CPU.")] = None,
    deterministic: Annotated[bool, typer.Option(help="Only backends that give the same bits every time.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Timed repeats; the best is shown.")] = 10,
    recheck: Annotated[
        bool, typer.Option(help="Forget what the Hopper kernels' self-check said on this machine and repeat it.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Also write the rows as JSON.")] = None,
) -> None:
    """Show what `auto` takes for each operation, why, the times of all candidates, and how far it is ahead of the next.

    Defaults: Llama2-7B's layer and 8,192 tokens on a GPU, a small layer and 2,048 tokens on a CPU.
    """
    from megabiomed.kernels import bench

    wanted = op or list(OPS)
    for name in wanted:
        if name not in OPS:
            raise ConfigError("unknown operation in --op", got=name, expected=", ".join(OPS), do="choose one of these")
    asked = {
        "heads": heads,
        "kv_heads": kv_heads or heads,
        "head_dim": head_dim,
        "intermediate": intermediate,
        "vocabulary": vocabulary,
    }
    shapes = default_shapes(documents, dtype, deterministic, asked)
    if recheck:
        typer.echo(_forget())
    roofline = bench.measure_roofline(shapes)
    typer.echo(
        f"roofline here: {roofline.tflops:.3f} TFLOP/s in a matrix product, {roofline.gbytes:.1f} GB/s in a copy"
    )
    rows: list[dict[str, Any]] = []
    for name in wanted:
        timings: list[bench.Timing] = []
        for case, timing in bench.run(shapes, [name], repeats, roofline):
            if not timings:
                typer.echo(f"\n{case.label}, {shapes.dtype}, {shapes.device.type}\n{HEADER}")
            typer.echo(_line(asdict(timing)))
            timings.append(timing)
            rows.append({"case": case.label, **asdict(timing)})
            if output is not None:  # after every candidate: a later one that hangs must not cost what was measured
                output.write_text(json.dumps({"roofline": asdict(roofline), "rows": rows}, indent=1) + "\n")
        ahead = bench.standing(case, timings)
        typer.echo(f"  {ahead}" if ahead else "  no other candidate to compare with")
    if output is not None:
        typer.echo(f"\nwritten: {output}")


def _forget() -> str:
    from importlib.util import find_spec

    if find_spec("triton") is None:
        return "triton is not installed: there are no verdicts"
    from megabiomed.kernels.gluon.verdict import forget

    return f"forgotten: {forget()} verdicts of self-checks"


HEADER = f"  {'candidate':14s} {'forward ms':>11s} {'backward ms':>12s} {'of roofline':>13s} {'rate':>26s}"


def _line(row: dict[str, Any]) -> str:
    mark = "*" if row["chosen"] else " "
    if row["forward_ms"] is None:
        return f"{mark} {row['candidate']:14s} {'-':>11s} {'-':>12s} {'-':>13s} {'-':>26s}  {row['note']}"
    both = row["backward_ms"] is not None
    backward = f"{row['backward_ms']:.3f}" if both else "-"
    shares = f"{row['forward_share']:.0%}" + (f" / {row['backward_share']:.0%}" if both else "")
    rates = row["forward_rate"] + (f" / {row['backward_rate']}" if both else "")
    times = f"{row['forward_ms']:11.3f} {backward:>12s}"
    return f"{mark} {row['candidate']:14s} {times} {shares:>13s} {rates:>26s}  {row['note']}"


def default_shapes(
    documents: str | None, dtype: str | None, deterministic: bool, asked: dict[str, int | None]
) -> Shapes:
    """The shapes of a run: this device's defaults, overridden by what is given."""
    from megabiomed.kernels.bench_cases import Shapes
    from megabiomed.processes import platform

    on_gpu = platform.has_cuda()
    sizes: dict[str, int] = dict(GPU_SIZES if on_gpu else CPU_SIZES)
    sizes |= {name: value for name, value in asked.items() if value is not None}
    lengths = documents or (GPU_DOCUMENTS if on_gpu else CPU_DOCUMENTS)
    precision = dtype or ("bf16" if on_gpu else "fp32")
    if precision not in platform.DTYPES:
        raise ConfigError("unknown type in --dtype", got=precision, expected=", ".join(platform.DTYPES))
    try:
        parts = [int(length) for length in lengths.split(",")]
    except ValueError:
        parts = []
    if not parts or min(parts) < 1:
        raise ConfigError("--documents is not a list of lengths", got=lengths, expected="such as 2048,4096,2048")
    if sizes["heads"] % sizes["kv_heads"]:
        got = f"{sizes['heads']} and {sizes['kv_heads']}"
        raise ConfigError("query heads are not a multiple of key/value heads", got=got, do="change --kv-heads")
    return Shapes(
        documents=parts,
        dtype=platform.DTYPES[precision],
        device=platform.device(),
        deterministic=deterministic,
        **sizes,
    )


CPU_SIZES = {"heads": 8, "kv_heads": 8, "head_dim": 64, "intermediate": 1376, "vocabulary": 8192}
GPU_SIZES = {"heads": 32, "kv_heads": 32, "head_dim": 128, "intermediate": 11008, "vocabulary": 32000}
CPU_DOCUMENTS = "256,310,190,401,128,333,222,208"
GPU_DOCUMENTS = "2048,4096,2048"
