"""`megabiomed checkpoint`: look at checkpoints, verify them, and go to and from Hugging Face folders."""

from __future__ import annotations

import json
from collections import Counter
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table

from megabiomed.checkpoint.catalog import latest_valid, list_checkpoints
from megabiomed.checkpoint.manifest import COMMITTED, MANIFEST, check_tiling
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.base import parse
from megabiomed.config.load import load_config
from megabiomed.config.schema import ModelConfig
from megabiomed.errors import CheckpointError
from megabiomed.model.llama.convert import (
    HuggingFaceSource,
    check_architecture,
    export_hf,
    logical_tensors,
    model_config_from_hf,
    plan_shards,
)

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
    rows = [_summary(folder) for folder in _folders(path)]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    table = Table("checkpoint", "complete", "step", "tokens", "saved with", "tensors", "model", "optimizer")
    for row in rows:
        table.add_row(*(_cell(row.get(key)) for key in _COLUMNS))
    Console().print(table)
    for row in rows:
        if not row["complete"]:
            typer.echo(f"{row['path']}: {row['reason']}")


_COLUMNS = ("path", "complete", "step", "tokens", "topology", "tensors", "model_bytes", "optimizer_bytes")


def _summary(folder: Path) -> dict[str, Any]:
    try:
        checkpoint = Checkpoint.open(folder)
    except CheckpointError as error:
        return {"path": str(folder), "complete": False, "reason": str(error)}
    manifest, trainer = checkpoint.manifest, checkpoint.trainer
    sizes: Counter[str] = Counter()
    for name, record in manifest.files.items():
        sizes[name.split("/")[0]] += record.bytes
    return {
        "path": str(folder),
        "complete": True,
        "step": checkpoint.step,
        "tokens": trainer.get("tokens_consumed"),
        "topology": {"ranks": manifest.world_size, **trainer.get("topology", {})},
        "tensors": len(manifest.tensors),
        "parameters": sum(prod(shape) for shape in checkpoint.shapes.values()),
        "kinds": manifest.kinds(),
        "model_bytes": sizes["model"],
        "optimizer_bytes": sizes["optimizer"],
        "files": len(manifest.files),
        "created": manifest.created,
        "writer": manifest.writer,
        "megabiomed": manifest.megabiomed,
        "architecture": checkpoint.architecture,
    }


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


@checkpoint_app.command()
def verify(path: Where) -> None:
    """Read every byte of checkpoints and compare it with the hashes taken when they were written.

    Example: megabiomed checkpoint verify runs/demo/checkpoints/step_00000120
    """
    damaged = 0
    for folder in _folders(path):
        problems = _verify(folder)
        damaged += bool(problems)
        typer.echo(f"{folder}: " + ("; ".join(problems) if problems else "every file is as it was written"))
    if damaged:
        raise CheckpointError(f"{damaged} checkpoint(s) under {path} are damaged", do="resume from an older one")


def _verify(folder: Path) -> list[str]:
    try:
        checkpoint = Checkpoint.open(folder)
        check_tiling(checkpoint.manifest.tensors)
    except CheckpointError as error:
        return [str(error)]
    total = sum(record.bytes for record in checkpoint.manifest.files.values())
    bar = Progress(TextColumn(folder.name), BarColumn(), DownloadColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("verify", total=total)
        return checkpoint.verify(hashes=True, progress=lambda size: bar.advance(task, size))


@checkpoint_app.command("import-hf")
def import_hf(
    path: Annotated[Path, typer.Argument(help="A Hugging Face Llama folder with safetensors.")],
    config: Annotated[str | None, typer.Option(help="Run file (or its name) that the folder must fit.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a Hugging Face folder can be trained from; nothing is copied, `model.init_from` reads it in place.

    Example: megabiomed checkpoint import-hf Llama-2-7b-hf --config biomedgpt-lm-7b
    """
    model = load_config(config).model if config else model_config_from_hf(path)
    check_architecture(path, model)
    source = HuggingFaceSource(path)
    tokenizer = path / "tokenizer.model"
    report = {
        "path": str(path),
        "architecture": model.model_dump(mode="json", exclude={"init_from"}),
        "parameters": sum(prod(shape) for shape in logical_tensors(model).values()),
        "tensors": len(source.names()),
        "dtypes": dict(Counter(source.describe(name)[0] for name in source.names())),
        "tied_embeddings": source.tied,
        "tokenizer": str(tokenizer) if tokenizer.is_file() else None,
    }
    if as_json:
        typer.echo(json.dumps(report, indent=1))
        return
    for key, value in report.items():
        typer.echo(f"{key}: {_cell(value)}")
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
    opened = _newest(checkpoint, hashes=check)
    model = cast(ModelConfig, parse(ModelConfig, opened.architecture, str(opened.path / MANIFEST)))
    limit = int(max_shard_gb * 1e9)
    plan = plan_shards(model, dtype.value, limit)
    typer.echo(f"from: {opened.path} (step {opened.step:,})")
    for name, shapes in plan.items():
        typer.echo(f"{output / name}: {len(shapes)} tensors, {sum(map(prod, shapes.values())):,} parameters")
    if not dry_run:
        export_hf(opened, model, output, dtype.value, opened.tokenizer if tokenizer else None, limit)
        typer.echo(f"written: {output}")


def _newest(path: Path, hashes: bool) -> Checkpoint:
    """The checkpoint at `path`, or the newest valid one of the run there."""
    if _is_checkpoint(path):
        return Checkpoint.open(path, "hash" if hashes else "size")
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found, skipped = latest_valid(folder, "hash" if hashes else "size")
    for skip, reason in skipped:
        typer.echo(f"skipped {skip}: {reason}", err=True)
    if found is None:
        raise CheckpointError(f"there is no valid checkpoint in {folder}", do="name a checkpoint or a run folder")
    return found


def _folders(path: Path) -> list[Path]:
    """The checkpoints that a path stands for, newest first."""
    if _is_checkpoint(path):
        return [path]
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    found = [item.path for item in list_checkpoints(folder)]
    if not found:
        raise CheckpointError(f"there is no checkpoint in {folder}", do="name a checkpoint or a run folder")
    return found


def _is_checkpoint(path: Path) -> bool:
    return (path / MANIFEST).is_file() or (path / COMMITTED).is_file() or (path / "model").is_dir()
