"""`megabiomed checkpoint`: look at checkpoints, verify them, and go to and from Hugging Face folders."""

from __future__ import annotations

import json
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Annotated, cast

import typer

from megabiomed.errors import CheckpointError

# torch and the rest are imported inside the commands, so that --help answers at once.
checkpoint_app = typer.Typer(help="Inspect, verify, import and export checkpoints.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Where = Annotated[Path, typer.Argument(help="A checkpoint, a `checkpoints` folder or a run folder.")]


class Dtype(StrEnum):
    """Element type of exported weights."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


@checkpoint_app.command()
def inspect(path: Where, as_json: AsJson = False) -> None:
    """Show step, tokens, topology and size of checkpoints, and whether each is complete.

    Example: megabiomed checkpoint inspect runs/demo
    """
    from rich.console import Console
    from rich.table import Table

    from megabiomed.checkpoint.report import COLUMNS, cell, folders, summary

    rows = [summary(folder) for folder in folders(path)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("checkpoint", "complete", "step", "tokens", "saved with", "tensors", "model", "optimizer")
    for row in rows:
        table.add_row(*(cell(row.get(key)) for key in COLUMNS))
    Console().print(table)
    for row in rows:
        if not row["complete"]:
            typer.echo(f"{row['path']}: {row['reason']}")


@checkpoint_app.command()
def verify(path: Where) -> None:
    """Read every byte of checkpoints and compare it with the hashes taken when they were written.

    Example: megabiomed checkpoint verify runs/demo/checkpoints/step_00000120
    """
    from megabiomed.checkpoint.report import folders, problems_of

    damaged = 0
    for folder in folders(path):
        problems = problems_of(folder)
        damaged += bool(problems)
        typer.echo(f"{folder}: " + ("; ".join(problems) if problems else "every file is as it was written"))
    if damaged:
        raise CheckpointError(f"{damaged} checkpoint(s) under {path} are damaged", do="resume from an older one")


@checkpoint_app.command("import-hf")
def import_hf(
    path: Annotated[Path, typer.Argument(help="A Hugging Face Llama folder with safetensors.")],
    config: Annotated[str | None, typer.Option(help="Run file (or its name) that the folder must fit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a Hugging Face folder can be trained from; nothing is copied, `model.init_from` reads it in place.

    Example: megabiomed checkpoint import-hf Llama-2-7b-hf --config biomedgpt-lm-7b
    """
    from megabiomed.checkpoint.report import cell, describe_hf
    from megabiomed.config.load import load_config
    from megabiomed.model.llama.convert import model_config_from_hf

    report = describe_hf(path, load_config(config).model if config else model_config_from_hf(path))
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    for key, value in report.items():
        typer.echo(f"{key}: {cell(value)}")
    typer.echo(f"next: set model.init_from: {path}")


@checkpoint_app.command("export-hf")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder for its newest valid one.")],
    output: Annotated[Path, typer.Argument(help="Folder to make.")],
    dtype: Annotated[Dtype, typer.Option(help="Element type of the weights.")] = Dtype.bf16,
    max_shard_gb: Annotated[float, typer.Option(help="Limit of one weight file in gigabytes.", min=0.001)] = 5.0,
    tokenizer: Annotated[bool, typer.Option(help="Add the tokenizer that is stored in the checkpoint.")] = True,
    check: Annotated[bool, typer.Option(help="Verify all hashes of the checkpoint first.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
) -> None:
    """Write a checkpoint as a folder that `transformers` loads.

    Example: megabiomed checkpoint export-hf runs/demo demo-hf --dtype bf16
    """
    from megabiomed.checkpoint.manifest import MANIFEST
    from megabiomed.checkpoint.report import newest
    from megabiomed.config.base import parse
    from megabiomed.config.schema import ModelConfig
    from megabiomed.model.llama.convert import export_hf, plan_shards

    opened = newest(checkpoint, hashes=check)
    model = cast(ModelConfig, parse(ModelConfig, opened.architecture, str(opened.path / MANIFEST)))
    limit = int(max_shard_gb * 1e9)
    plan = plan_shards(model, dtype.value, limit)
    typer.echo(f"from: {opened.path} (step {opened.step:,})")
    for name, shapes in plan.items():
        typer.echo(f"{output / name}: {len(shapes)} tensors, {sum(map(prod, shapes.values())):,} parameters")
    if not dry_run:
        export_hf(opened, model, output, dtype.value, opened.tokenizer if tokenizer else None, limit)
        typer.echo(f"written: {output}")
