"""`megabiomed explain`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

WORST = "worst"


def explain(
    run: Annotated[Path, typer.Argument(help="Run folder, or stage of an alignment.")],
    step: Annotated[int, typer.Option(help="Step to explain, from 1.")],
    attempt: Annotated[
        int | None,
        typer.Option(
            min=1, help="Which of several computations of the step, from 1; default: that of its event, or the last."
        ),
    ] = None,
    no_loss: Annotated[bool, typer.Option("--no-loss", help="Only name the documents; load no model.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Documents to print; 0: all.")] = 20,
    quarantine: Annotated[
        str | None,
        typer.Option(
            metavar="PAPER", help="Mask this paper of the step (`worst`: the first one) from the next start on."
        ),
    ] = None,
    reason: Annotated[str | None, typer.Option(help="Why, for quarantine.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Name the documents of a step and their losses, the worst first.

    The losses are computed in this process, with the newest checkpoint before the step. The page of `report` shows them, too.
    """
    from megabiomed.runs.explain.explain import explain as find_out
    from megabiomed.runs.explain.explain import put_into_quarantine
    from megabiomed.runs.explain.found import keep
    from megabiomed.runs.explain.told import lines_of

    found = find_out(run, step, attempt, not no_loss, lambda line: typer.echo(line, err=True))
    if found.checkpoint is not None:
        keep(found.folder, found)
    for line in [json.dumps(found.to_json(), ensure_ascii=False)] if as_json else lines_of(found, top):
        typer.echo(line)
    if quarantine is not None:
        typer.echo(put_into_quarantine(found, None if quarantine == WORST else quarantine, reason), err=as_json)
    if not no_loss:
        from megabiomed.processes import platform

        platform.leave()
