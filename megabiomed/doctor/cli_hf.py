"""`megabiomed checkpoint import-hf` and `export-hf`: to and from Hugging Face folders, with a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabiomed.ground.options import finite

if TYPE_CHECKING:
    from megabiomed.config.models import ModelConfig
    from megabiomed.model.certificate import Certificate


class Dtype(StrEnum):
    """Element type of exported weights."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


def import_hf(
    path: Annotated[Path, typer.Argument(help="A Hugging Face folder: Llama, Mistral, Qwen2, Qwen3.")],
    config: Annotated[str | None, typer.Option(help="Run file (or its name) that the folder must fit.")] = None,
    certify: Annotated[bool, typer.Option(help="Compute weights and logits with transformers and compare.")] = True,
    certificate: Annotated[Path | None, typer.Option(help="File for the certificate; default: in the folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Check that a Hugging Face folder can be trained from; nothing is copied, `model.init_from` reads it in place.

    Example: megabiomed checkpoint import-hf Llama-2-7b-hf --config biomedgpt-lm-7b
    """
    from megabiomed.checkpoint.locate import locate
    from megabiomed.checkpoint.uses import TRANSFORMERS
    from megabiomed.config.load import load_config
    from megabiomed.doctor.report import cell, describe_hf
    from megabiomed.model.hf_config import model_config_from_hf

    locate(path).expect(TRANSFORMERS)
    model = load_config(config).model if config else model_config_from_hf(path)
    report = describe_hf(path, model)
    found = _certify_folder(path, model) if certify else None
    if as_json:
        typer.echo(json.dumps(report | ({"certificate": found.values()} if found else {}), indent=1))
    else:
        for key, value in report.items():
            if key != "notes":
                typer.echo(f"{key}: {cell(value)}")
        for note in report["notes"]:
            typer.echo(f"note: {note}")
        for line in found.lines() if found else ():
            typer.echo(line)
    if found:
        _store(found, certificate, path, quiet=as_json)
        found.check()
    if not as_json:
        typer.echo(f"next: set model.init_from: {path}")


def _certify_folder(path: Path, model: ModelConfig) -> Certificate:
    from megabiomed.model.certificate import certify
    from megabiomed.model.hf_folder import HuggingFaceSource

    with _progress("certify", 2 * model.num_hidden_layers) as tick:
        return certify(path, HuggingFaceSource(path), model, "import", str(path), tick=tick)


def _store(found: Certificate, wanted: Path | None, folder: Path, quiet: bool) -> None:
    from megabiomed.model.certificate import IMPORT_CERTIFICATE

    target = wanted or folder / IMPORT_CERTIFICATE
    try:
        found.store(target)
    except OSError as error:
        # A folder of shared models is often read-only, and nobody asked for this file.
        if wanted:
            raise
        typer.echo(
            f"the certificate is not stored: {target}: {error.strerror}; name a file with --certificate", err=True
        )
    else:
        if not quiet:
            typer.echo(f"stored: {target}")


def export_hf(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run folder for its newest valid one.")],
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    dtype: Annotated[Dtype, typer.Option(help="Element type of the weights.")] = Dtype.bf16,
    max_shard_gb: Annotated[
        float, typer.Option(callback=finite, help="Largest size of a weight file, in gigabytes.", min=0.001)
    ] = 5.0,
    tokenizer: Annotated[bool, typer.Option(help="Add the tokenizer that is stored in the checkpoint.")] = True,
    check: Annotated[bool, typer.Option(help="Verify all hashes of the checkpoint first.")] = True,
    allow_uncertified: Annotated[
        bool, typer.Option("--allow-uncertified", help="Keep the folder even if it is not the same model.")
    ] = False,
    base: Annotated[
        Path | None, typer.Option(help="New location of the base model the adapters were trained on, if it has moved.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written; write nothing.")] = False,
) -> None:
    """Write a checkpoint as a folder that `transformers` loads, proven to be the same model (certificate.json).

    Adapters are merged into the model beside which they were trained.

    Example: megabiomed checkpoint export-hf runs/demo demo-hf --dtype bf16
    """
    from megabiomed.checkpoint.locate import locate
    from megabiomed.checkpoint.manifest import MANIFEST
    from megabiomed.checkpoint.uses import SAVED
    from megabiomed.config.models import stored_model
    from megabiomed.model.hf_export import export_certified, plan_shards
    from megabiomed.model.merged import adapters_of
    from megabiomed.model.start_from import whole_model

    opened = locate(checkpoint).expect(SAVED).open(hashes=check)
    model = stored_model(opened.architecture, str(opened.path / MANIFEST))
    # Powers of ten, as transformers counts max_shard_size.
    limit = int(max_shard_gb * 1e9)
    plan = plan_shards(model, dtype.value, limit)
    source, lora = whole_model(opened, base), adapters_of(opened)
    merged = f", adapters of rank {lora.rank} merged" if lora else ""
    typer.echo(f"from: {opened.path} (step {opened.step:,}){merged}")
    for name, shapes in plan.items():
        typer.echo(f"{output / name}: {len(shapes)} tensors, {sum(map(prod, shapes.values())):,} parameters")
    if dry_run:
        return
    with _progress("write and certify", sum(map(len, plan.values())) + 2 * model.num_hidden_layers) as tick:
        found = export_certified(opened, source, model, output, dtype.value, tokenizer, limit, allow_uncertified, tick)
    for line in found.lines():
        typer.echo(line)
    typer.echo(f"written: {output}")


def export_peft(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of adapters, or a run folder for its newest one.")],
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    base: Annotated[
        str | None,
        typer.Option(help="Name or folder of the base model to record; default: the one that the run started from."),
    ] = None,
    check: Annotated[bool, typer.Option(help="Verify all hashes of the checkpoint first.")] = True,
) -> None:
    """Write the adapters of a checkpoint as a folder that `peft.PeftModel.from_pretrained` loads.

    Example: megabiomed checkpoint export-peft runs/finetune-demo adapter --base demo-hf
    """
    from megabiomed.checkpoint.locate import locate
    from megabiomed.checkpoint.uses import SAVED
    from megabiomed.model.peft import export_adapter

    opened = locate(checkpoint).expect(SAVED).open(hashes=check)
    count = export_adapter(opened, output, base)
    typer.echo(f"from: {opened.path} (step {opened.step:,})")
    typer.echo(f"written: {output}, {count:,} parameters")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # On standard error: standard output may be JSON for a program.
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)
