"""`megabiomed data ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from megabiomed.ground.errors import DataError

data_app = typer.Typer(no_args_is_help=True, help="See what a run reads, and when.")


@data_app.callback()
def _group() -> None:
    pass


@data_app.command(epilog="Example: megabiomed data trace runs/demo/config.yaml --paper PMC123")
def trace(
    config: Annotated[str, typer.Argument(help="Run file, or the name of one in configs/runs.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=value]...", help="Keys to override.")] = None,
    step: Annotated[int | None, typer.Option(help="Print the papers of this optimizer step, from 1.")] = None,
    paper: Annotated[
        str | None, typer.Option(help="Print when this paper is read: its id, PMC id or PubMed id.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the paper's store to list.")] = 1,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Which of several computations of the step, from 1; default: the last.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Show which papers were in a batch, or at which steps a paper was or will be read."""
    if (step is None) == (paper is None):
        raise DataError("a trace needs one question", do="pass either --step N or --paper ID")
    from megabiomed.config import load_config
    from megabiomed.data.loader import open_training_data
    from megabiomed.data.trace import trace_paper, trace_step
    from megabiomed.runs.history import run_steps

    run = load_config(config, overrides or [])
    loader, steps = open_training_data(run.data, run.seed), run_steps(run)
    if step is not None:
        samples, note = steps.choose(step, attempt)
        typer.echo(note, err=True, nl=bool(note))
        readings = trace_step(loader, samples)
    else:
        readings = iter(trace_paper(loader, str(paper), steps, epochs))
    for reading in readings:
        origin = reading.provenance
        if as_json:
            typer.echo(json.dumps(vars(reading), ensure_ascii=False))
            continue
        store = Path(loader.stores[reading.source].path)
        typer.echo(
            f"step: {reading.step} sample: {reading.sample} epoch: {reading.epoch} window: {reading.window} "
            f"tokens: {reading.tokens} paper: {origin['paper_id']} file: {origin.get('source')} "
            f"offset: {origin.get('offset')} store: {store}{'' if reading.stands else ' (done again later)'}"
        )
