"""What `megabiomed checkpoint` says: of checkpoints, of what another topology needs of them, of two that differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from megabiomed.checkpoint.manifest import check_tiling
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig, load_config
from megabiomed.config.kinds import stored_run
from megabiomed.config.models import ModelConfig
from megabiomed.doctor.difference import TensorDifference, differences, open_side, work
from megabiomed.doctor.needs import config_differences, parse_topology, stage_needs
from megabiomed.ground.errors import UserError
from megabiomed.ground.tables import print_table
from megabiomed.model.hf_folder import HuggingFaceSource, check_architecture
from megabiomed.model.registry import architecture_of
from megabiomed.model.vocabulary import notes_on_tokenizer
from megabiomed.tokenizer.files import open_if_any

COLUMNS = ("path", "complete", "step", "tokens", "topology", "tensors", "model_bytes", "optimizer_bytes")


def summary(folder: Path) -> dict[str, Any]:
    """Facts of one checkpoint folder; an incomplete one has the reason instead."""
    try:
        # By sizes: a list of checkpoints must not read all of them.
        checkpoint = Checkpoint.open(folder)
        trainer = checkpoint.trainer
    except (UserError, OSError) as error:
        return {"path": str(folder), "complete": False, "reason": str(error)}
    manifest = checkpoint.manifest
    sizes: Counter[str] = Counter()
    for name, record in manifest.files.items():
        sizes[name.split("/")[0]] += record.bytes
    return {
        "path": str(folder),
        "complete": True,
        "step": checkpoint.step,
        "tokens": trainer.tokens_consumed,
        "topology": {"ranks": manifest.world_size, **trainer.topology.model_dump(exclude_none=True)},
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


def table_of(rows: list[dict[str, Any]]) -> None:
    """Print summaries as a table."""
    columns = ("checkpoint", "complete", "step", "tokens", "saved with", "tensors", "model", "optimizer")
    print_table(columns, [[cell(row.get(key)) for key in COLUMNS] for row in rows])


def cell(value: Any) -> str:
    """A value for a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, dict):
        return " ".join(f"{key}={part}" for key, part in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def problems_of(folder: Path) -> list[str]:
    """Read every byte with a progress bar; one sentence for each file that is not as it was written."""
    try:
        checkpoint = Checkpoint.open(folder)
        # Hashes say that files are as written; the tiling, that what was written is complete.
        check_tiling(checkpoint.manifest.tensors)
    except (UserError, OSError) as error:
        return [str(error)]
    total = sum(record.bytes for record in checkpoint.manifest.files.values())
    bar = Progress(TextColumn(folder.name), BarColumn(), DownloadColumn(), console=Console(stderr=True), transient=True)
    with bar:
        task = bar.add_task("verify", total=total)
        return checkpoint.verify(hashes=True, progress=lambda size: bar.advance(task, size))


def describe_hf(path: Path, model: ModelConfig) -> dict[str, Any]:
    """Check a Hugging Face folder against an architecture and say what it holds."""
    check_architecture(path, model)
    source = HuggingFaceSource(path)
    tokenizer = open_if_any(path)
    return {
        "path": str(path),
        "architecture": model.model_dump(mode="json", exclude={"init_from"}),
        "parameters": sum(prod(shape) for shape in architecture_of(model).shapes.values()),
        "tensors": len(source.names()),
        "dtypes": dict(Counter(source.describe(name)[0] for name in source.names())),
        "tied_embeddings": source.tied,
        "tokenizer": str(tokenizer.path) if tokenizer else None,
        "notes": notes_on_tokenizer(path, model.vocab_size),
    }


def needs_report(checkpoint: Checkpoint, topology: str) -> dict[str, Any]:
    """Ranks, and for each pipeline stage what a rank reads and holds."""
    # Optimizer, adapters and batch of the stored configuration decide too what is legal and what is needed.
    config = stored_config(checkpoint)
    parallel, world = parse_topology(topology, config)
    stages = [asdict(stage) for stage in stage_needs(config.model, parallel, world, config.optimizer, config.lora)]
    return {"checkpoint": str(checkpoint.path), "topology": topology, "processes": world, "stages": stages}


def config_report(checkpoint: Checkpoint, name: str) -> list[dict[str, Any]]:
    """Keys in which a run file differs from the configuration that wrote the checkpoint."""
    stored = stored_config(checkpoint)
    return config_differences(
        stored.model_dump(mode="json"), load_config(name, None, type(stored)).model_dump(mode="json")
    )


def stored_config(checkpoint: Checkpoint) -> RunConfig:
    """The configuration that wrote a checkpoint."""
    return stored_run(checkpoint.config_text, f"the configuration in {checkpoint.path}")


def print_needs(report: dict[str, Any]) -> None:
    """The table for the terminal."""
    columns = ("stage", "ranks", "parameters", "reads", "memory to load", "memory to save", "memory to offload")
    rows = []
    for stage in report["stages"]:
        sizes = (stage[key] for key in ("read_bytes", "load_bytes", "staging_bytes", "offload_bytes"))
        first, last = stage["ranks"]
        rows.append([str(stage["stage"]), f"{first}-{last}", f"{stage['parameters']:,}", *map(_mib, sizes)])
    print_table(columns, rows, f"each rank on {report['topology']}: {report['processes']} processes")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"


def compare(first: Path, second: Path) -> list[TensorDifference]:
    """Compare with a progress bar."""
    a, b = open_side(first), open_side(second)
    columns = TextColumn("compare"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("compare", total=work(a, b))
        return list(differences(a, b, lambda count: bar.advance(task, count)))


def print_differences(found: Iterable[TensorDifference]) -> None:
    """The table for the terminal; nothing when there is nothing to show."""
    rows = []
    for item in found:
        figures = [f"{item.differing:,}", f"{item.max_abs:.3g}", f"{item.relative:.3g}"]
        rows.append([item.name, item.kind, *([item.problem, "", ""] if item.problem else figures)])
    if rows:
        print_table(["tensor", "kind", "elements", "largest", "relative"], rows)
