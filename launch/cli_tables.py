"""`megabiomed account | sweep`: what runs took from the cluster; the runs of a sweep side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from megabiomed.ground import options
from megabiomed.ground.errors import ConfigError, LaunchError


def _price(value: float | None) -> float | None:
    return None if value is None else options.finite(value)


def account(
    run: Annotated[
        Path | None, typer.Argument(help="Run folder (its chain), or a folder of runs; default: runs/.")
    ] = None,
    cost_per_gpu_hour: Annotated[
        float | None,
        typer.Option(callback=_price, min=0.0, help="Price of a GPU for an hour, instead of the cluster file's."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV: a line for each stage.")] = False,
) -> None:
    """Show GPU-hours, time in the queue, useful share, lost steps and cost, by stage and in sum.

    Examples: megabiomed account runs/biomedgpt-lm-7b; megabiomed account runs --csv > hours.csv
    """
    from megabiomed.ground.tables import print_table
    from megabiomed.launch import account_table
    from megabiomed.launch.account import accounts, as_dict, total
    from megabiomed.launch.status import find_runs

    if as_json and as_csv:
        raise ConfigError("--json and --csv exclude each other", do="choose one")
    runs = find_runs(run)
    if not runs:
        raise LaunchError(
            "nothing was submitted there", got=run or "runs/", do="megabiomed submit RUN --cluster CLUSTER"
        )
    found = accounts(runs, cost_per_gpu_hour)
    if as_json:
        typer.echo(json.dumps({"stages": [as_dict(each) for each in found], "sum": as_dict(total(found))}, indent=1))
    elif as_csv:
        typer.echo(account_table.as_csv(found), nl=False)
    else:
        print_table(account_table.COLUMNS, account_table.rows(found))
        typer.echo("\n".join(account_table.notes(found)))


def sweep(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare the runs of a sweep: values, state, last loss, best validation loss; the best first.

    Example: megabiomed sweep runs/biomedgpt-lm-7b-medmcqa
    """
    from megabiomed.ground.tables import print_table
    from megabiomed.launch import sweep_table

    rows = sweep_table.compared(folder)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        print_table(sweep_table.columns(rows), sweep_table.cells(rows))


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (account, sweep):
        app.command()(command)
