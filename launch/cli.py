"""`megabiomed status | logs | cancel | pause | hold | release | resubmit`."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from megabiomed.ground.errors import LaunchError
from megabiomed.launch.cli_submit import EXAMPLE, submit
from megabiomed.launch.status_table import Group

_PIPE_WIDTH = 1000
Run = Annotated[Path, typer.Argument(help="Run folder.")]


def status(
    run: Annotated[Path | None, typer.Argument(help="Run folder; default: all below runs/.")] = None,
    state: Annotated[Group | None, typer.Option(help="Only runs in this state; `ended` includes failed ones.")] = None,
    hide_finished: Annotated[bool, typer.Option("--hide-finished", help="Leave out what has finished.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every few seconds.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    prometheus: Annotated[
        Path | None, typer.Option(help="Write metrics of all runs, also those in the queue elsewhere; - prints them.")
    ] = None,
) -> None:
    """Show the state of submitted runs: step, loss, speed, last checkpoint, ETA including requeues, how they ended.

    Examples: megabiomed status runs/demo --watch; megabiomed status --state failed; megabiomed status --hide-finished
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from megabiomed.launch.status import find_runs, statuses
    from megabiomed.launch.status_table import belongs, table

    if prometheus is not None:
        _export(run, prometheus)
        return

    def rows() -> list[dict[str, Any]]:
        runs = find_runs(run)
        if not runs:
            raise LaunchError(
                "nothing was submitted there", got=run or "runs/", do="megabiomed submit RUN --cluster CLUSTER"
            )
        found = [item for item in statuses(runs) if state is None or belongs(item, state)]
        return [item for item in found if not (hide_finished and item["state"] == "FINISHED")]

    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    console = Console(width=_PIPE_WIDTH if piped else None)
    if as_json:
        typer.echo(json.dumps(rows(), indent=1))
    elif watch:
        with Live(table(rows(), console), console=console, refresh_per_second=1) as live:
            while True:
                time.sleep(5)
                live.update(table(rows(), console))
    elif found := rows():
        shown = table(found, console)
        console.print(shown, soft_wrap=isinstance(shown, Text))  # paths stay whole
    else:
        typer.echo(f"no run is {state or 'unfinished'}")


def _export(run: Path | None, file: Path) -> None:
    from megabiomed.ground.places import same_place
    from megabiomed.launch.prometheus import exposition, write
    from megabiomed.launch.status import find_runs, queued_runs, statuses

    runs = find_runs(run)
    for other in queued_runs() if run is None else []:
        if not any(same_place(other, known) for known in runs):
            runs.append(other)
    text = exposition(statuses(runs))
    if str(file) == "-":
        typer.echo(text, nl=False)
    else:
        write(file, text)


def logs(
    run: Run,
    rank: Annotated[int, typer.Option(min=0, help="Rank.")] = 0,
    job: Annotated[bool, typer.Option("--job", help="Show the log of the batch script instead.")] = False,
    first_failure: Annotated[
        bool, typer.Option("--first-failure", help="Show the log of the task that failed first, and on which node.")
    ] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Lines to show.")] = 40,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Continue as the log grows, into later starts.")
    ] = False,
) -> None:
    """Show the log of a rank in the newest start.

    Examples: megabiomed logs runs/demo --rank 3 --follow; megabiomed logs runs/demo --first-failure
    """
    from megabiomed.launch.follow import failed_log, newest_log, tail

    if first_failure:
        said, file = failed_log(run)
        typer.echo(said)
        if file is not None:
            tail(file, lines, None)
        return
    chosen = run / "slurm" / "job.log" if job else newest_log(run, rank)
    if chosen is None or not chosen.is_file():
        raise LaunchError(f"{run} has no such log", got=f"rank {rank}", do="look into its logs/ folder")
    tail(chosen, lines, (lambda: chosen if job else newest_log(run, rank)) if follow else None)


def cancel(
    run: Run,
    save: Annotated[bool, typer.Option("--save", help="Let it save and exit at the next step.")] = False,
    chain: Annotated[
        bool, typer.Option(help="Also cancel the stages that wait for it (they would never start).")
    ] = True,
) -> None:
    """End a submitted run for good. Start it again with `megabiomed resubmit`.

    Example: megabiomed cancel runs/demo --save
    """
    from megabiomed.launch import control

    for line in control.cancel(run, save, chain):
        typer.echo(line)


def save(run: Run) -> None:
    """Ask a run to save at its next step and continue.

    Example: megabiomed save runs/demo
    """
    from megabiomed.launch import control

    typer.echo(control.save(run))


def pause(run: Run) -> None:
    """Let a run save, free its nodes and wait, held, in the queue; a waiting job is held. `megabiomed release` goes on.

    Example: megabiomed pause runs/demo
    """
    from megabiomed.launch.pause import pause as ask_to_pause

    for line in ask_to_pause(run):
        typer.echo(line)


def hold(run: Run) -> None:
    """Keep a waiting job from starting.

    Example: megabiomed hold runs/demo
    """
    from megabiomed.launch import control

    for line in control.scontrol(run, "hold"):
        typer.echo(line)


def release(run: Run) -> None:
    """Let a held or paused job start.

    Example: megabiomed release runs/demo
    """
    from megabiomed.launch import control

    for line in control.scontrol(run, "release"):
        typer.echo(line)


def resubmit(
    run: Run,
    only: Annotated[
        str, typer.Option(help="`failed`: all stages of the chain that did not finish; `this`: only this run.")
    ] = "failed",
    nodes: Annotated[int | None, typer.Option(min=1, help="Other number of nodes for this run.")] = None,
    time_limit: Annotated[str | None, typer.Option("--time", help="Other time limit of a start.")] = None,
    partition: Annotated[str | None, typer.Option(help="Other partition.")] = None,
    exclude: Annotated[
        str | None, typer.Option(help="Nodes to avoid; an empty text takes the earlier ones back.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be submitted; submit nothing.")] = False,
) -> None:
    """Resubmit what did not finish, with the stored configurations; the options change the jobs of this run.

    Examples: megabiomed resubmit runs/demo --only failed; megabiomed resubmit runs/demo --nodes 4 --time 12:00:00
    """
    from megabiomed.launch import control
    from megabiomed.launch.change import Change

    for line in control.resubmit(run, only, dry_run, Change(nodes, time_limit, partition, exclude)):
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog=EXAMPLE)(submit)
    for command in (status, logs, cancel, save, pause, hold, release, resubmit):
        app.command()(command)
