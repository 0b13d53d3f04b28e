"""`megabiomed corpus ...`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabiomed.corpus.layouts import AUTO, LAYOUTS
from megabiomed.ground.errors import ConfigError, DataError
from megabiomed.ground.options import LARGEST_SEED, finite
from megabiomed.ground.tables import print_table

if TYPE_CHECKING:
    from megabiomed.corpus.job_runner import Engine

corpus_app = typer.Typer(no_args_is_help=True, help="Build and inspect token stores from S2ORC papers.")

INPUTS_HELP = (
    "Files: .jsonl, .json, .xml, .nxml, .tar of these (plain, .gz, .bz2, .xz, .zst), .parquet, .arrow; "
    "folders of `Dataset.save_to_disk`."
)
LAYOUT_HELP = f"{AUTO}, {', '.join(LAYOUTS.names())}, or package.module:attribute of your own (docs/extending.md)."


class On(StrEnum):
    """Where the jobs of a build run, through datatrove."""

    local = "local"
    slurm = "slurm"


@corpus_app.command(epilog="Example: megabiomed corpus build s2orc/*.jsonl.gz --output corpus/s2orc --vocab-size 32000")
def build(
    inputs: Annotated[list[Path], typer.Argument(help=INPUTS_HELP)],
    output: Annotated[Path, typer.Option(help="Folder to create: train/, validation/, tokenizer/, report.json.")],
    tokenizer: Annotated[
        Path | None, typer.Option(help="tokenizer.model or tokenizer.json to use; default: train one.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(help="Pieces of a tokenizer trained here.")] = 32000,
    validation_fraction: Annotated[
        float, typer.Option(callback=finite, min=0.0, max=0.9, help="Share of papers held out.")
    ] = 0.03,
    layout: Annotated[str, typer.Option(help=LAYOUT_HELP)] = AUTO,
    pdf_parses: Annotated[Path | None, typer.Option(help="pdf_parses of release 20200705v1 to join.")] = None,
    min_words: Annotated[int, typer.Option(help="Shortest paper kept, in words.")] = 50,
    rule: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE, such as language=en or figures=off; repeat the option; docs/corpus.md lists all rules."
        ),
    ] = None,
    all_papers: Annotated[bool, typer.Option(help="Include papers without a PubMed Central or PubMed id.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Jobs at once; default: one for each core here, and no limit on SLURM."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing output.")] = False,
    near_dedup: Annotated[bool, typer.Option(help="Drop near duplicates (MinHash) as well as exact ones.")] = False,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option("--decontaminate", help="Evaluation set whose questions to search for; repeat the option."),
    ] = None,
    keep_contaminated: Annotated[
        bool, typer.Option(help="Report papers that contain evaluation questions, but keep them.")
    ] = False,
    on: Annotated[
        On | None, typer.Option(help="Run the jobs through datatrove: on this machine, or on a SLURM cluster.")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="With --on slurm: cluster file, or the name of one in configs/clusters.")
    ] = None,
    job_memory: Annotated[
        int, typer.Option(min=0, help="With --on slurm: GB that a job asks for each core; 0 asks for none.")
    ] = 4,
) -> None:
    """Read papers, select, clean and tokenize them into a training and a validation store.

    Run the same command again to resume a killed build: finished shards are not repeated. Jobs on SLURM outlive the command.
    """
    # Imported here, as in all commands: every `--help` reads these files, and numpy, torch or rich take a second or more.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    from megabiomed.corpus.build import BuildOptions, build_corpus
    from megabiomed.corpus.build_bars import LeftColumn
    from megabiomed.corpus.clean import CleanRules
    from megabiomed.corpus.select import parse_rules
    from megabiomed.corpus.tables import with_saved

    engine = _engine(on, cluster, job_memory, typer.echo)
    # min_words first, so that a rule of that name counts.
    rules = parse_rules(CleanRules, [f"min_words={min_words}", *(rule or [])])
    options = BuildOptions(
        with_saved(inputs),
        output,
        layout,
        pdf_parses,
        tokenizer,
        vocab_size,
        validation_fraction,
        workers or (0 if on is On.slurm else max(1, os.cpu_count() or 1)),
        rules=replace(rules, require_medical_id=rules.require_medical_id and not all_papers),
        overwrite=overwrite,
        near_dedup=near_dedup,
        evaluation=evaluation or [],
        remove_contaminated=not keep_contaminated,
    )
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        LeftColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        report = build_corpus(options, progress, engine)
    _show(output, report)


@corpus_app.command(epilog="Example: megabiomed corpus generate records.jsonl.gz --papers 600")
def generate(
    output: Annotated[Path, typer.Argument(help="File to write, .jsonl.gz.")],
    papers: Annotated[int, typer.Option(min=1, help="Number of papers.")] = 600,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Another seed gives other papers.")] = 0,
) -> None:
    """Write records in S2ORC's layout made by the project itself: true statements, most computed with rdkit."""
    from megabiomed.corpus.generate import write_records

    characters = write_records(output, papers, seed)
    typer.echo(f"{papers} papers, {characters:,} characters: {output}")


@corpus_app.command(epilog="Example: megabiomed corpus inspect corpus/s2orc")
def inspect(
    path: Annotated[Path, typer.Argument(help="A built corpus.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json unchanged.")] = False,
    page: Annotated[
        Path | None, typer.Option("--html", help="Page to write; default: report.html in the corpus.")
    ] = None,
) -> None:
    """Show what a corpus contains, what was dropped and why; write it as one HTML page with plots."""
    report = path / "report.json"
    if not report.is_file():
        raise DataError(f"{path} is not a built corpus", got="no report.json", do="run `megabiomed corpus build`")
    from megabiomed.corpus.report import read_report

    content = read_report(report)
    if as_json:
        typer.echo(json.dumps(content, indent=1))
    else:
        from megabiomed.corpus.report import write_page

        _show(path, content)
        target = page or path / "report.html"
        try:
            write_page(path, content, target)
        except OSError as error:
            raise DataError(f"{target} cannot be written", got=error.strerror, do="pass --html FILE") from None
        typer.echo(f"page: {target}")


@corpus_app.command(epilog="Example: megabiomed corpus datasheet corpus/s2orc")
def datasheet(path: Annotated[Path, typer.Argument(help="A built corpus.")]) -> None:
    """Write datasheet.md and datasheet.html into a corpus: sources, licences, fields, years, languages, drops, hashes."""
    report = path / "report.json"
    if not report.is_file():
        raise DataError(f"{path} is not a built corpus", got="no report.json", do="run `megabiomed corpus build`")
    from megabiomed.corpus.datasheet import write_datasheet
    from megabiomed.corpus.report import read_report

    try:
        written = write_datasheet(path, read_report(report), path.resolve().name)
    except OSError as error:
        raise DataError(
            f"no datasheet can be written into {path}", got=error.strerror, do="check the permissions"
        ) from None
    typer.echo(f"datasheet: {', '.join(map(str, written))}")


def _engine(on: On | None, cluster: str | None, memory: int, say: Callable[[str], None]) -> Engine | None:
    """What --on names; None for processes of this machine."""
    if (on is On.slurm) != (cluster is not None):
        raise ConfigError(
            "--on slurm and --cluster belong together",
            got=f"--cluster {cluster}" if cluster else "no --cluster",
            do="pass both: --on slurm --cluster FILE (docs/corpus.md shows one)",
        )
    if on is None:
        return None
    from megabiomed.corpus.job_runner import need_datatrove

    need_datatrove()
    if on is On.local or cluster is None:
        from megabiomed.corpus.local_engine import LocalEngine

        return LocalEngine()
    from megabiomed.config.cluster import load_cluster
    from megabiomed.corpus.slurm_engine import Request, SlurmEngine, need_slurm

    need_slurm()
    return SlurmEngine(Request(load_cluster(cluster), memory), say)


def _show(path: Path, report: dict[str, Any]) -> None:
    from rich.console import Console

    splits = [
        [split, *(f"{report[split][key]:,}" for key in ("documents", "tokens", "tokens_per_s"))]
        for split in ("train", "validation")
    ]
    print_table(["split", "documents", "tokens", "tokens/s"], splits, f"corpus {path}")
    counts = {**report["counts"], **report["rejects"]["counts"]}
    print_table(["account", "count"], [[what, f"{count:,}"] for what, count in counts.items()])
    console = Console()
    console.print(f"vocabulary {report['vocab_size']:,}, built in {report['seconds']} s")
    if encoder := report.get("encoder"):  # corpora of older releases say nothing of it
        console.print(_encoder_line(encoder), markup=False, highlight=False)
    if not report["validation"]["documents"]:
        console.print("no paper was held out: validation/ is empty; a larger --validation-fraction holds some out")


def _encoder_line(encoder: dict[str, Any]) -> str:
    """Which library encoded the texts, and why it was not GigaToken where it was not."""
    if "reason" in encoder:
        return f"encoded by {encoder['library']}, not by GigaToken: {encoder['reason']}"
    compared = f"the ids of {encoder['reference']} on all {encoder['texts_compared']:,} texts compared"
    refused = sum(encoder.get("refused", {}).values())
    return f"encoded by {encoder['library']}: {compared}" + (f"; {refused:,} texts by the latter" if refused else "")
