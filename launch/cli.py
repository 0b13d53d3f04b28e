"""`megabiomed submit | status | logs | cancel | pause | hold | release | resubmit`."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabiomed.ground.errors import LaunchError
from megabiomed.launch.status_table import Group

if TYPE_CHECKING:
    from megabiomed.launch.stage import ChainStage
    from megabiomed.launch.submit import Job
    from megabiomed.launch.sweep_submit import Plan

_PIPE_WIDTH = 1000
Run = Annotated[Path, typer.Argument(help="Run folder.")]


def submit(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="Run or chain file, or the name of one in configs/runs, configs/chains.")],
    cluster: Annotated[str, typer.Option(help="Cluster file, or the name of one in configs/clusters.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=value]...", help="Keys to override.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes of a single run.")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Any sbatch option, e.g. --sbatch qos=high; repeat the option for more.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="A run for each value; of several options each combination."),
    ] = None,
    sweep_limit: Annotated[int | None, typer.Option(min=1, help="Runs of a sweep at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the scripts; submit nothing.")] = False,
) -> None:
    """Submit a run, or a chain of runs, as SLURM jobs that survive time limits, preemption and dead nodes."""
    from megabiomed.config.cluster import load_cluster, parse_flags
    from megabiomed.config.notify import unusable
    from megabiomed.launch.again import unfinished
    from megabiomed.launch.commands import missing, parse_command
    from megabiomed.launch.stage import load_stages
    from megabiomed.launch.submit import render, submit_all

    flags = parse_flags(sbatch or [])
    parse = partial(parse_command, context.find_root())

    def plan(more: list[str]) -> list[Job]:
        stages = load_stages(run, load_cluster(cluster), [*(overrides or []), *more], nodes, parse)
        return [render(replace(stage, sbatch=stage.sbatch | flags)) for stage in stages]

    if sweep:
        _sweep(plan, sweep, sweep_limit, dry_run)
        return
    jobs = plan([])
    stages = [job.stage for job in jobs]
    todo = unfinished(stages)
    typer.echo("\n".join(line for stage in stages for line in _plan(stage, stage in todo)))
    receivers = [receiver for stage in todo for receiver in stage.cluster.notify]
    for error in (*missing(todo, parse), *unusable(receivers)):
        if not dry_run:
            raise error
        typer.echo(f"submit would refuse this: {error}")
    if dry_run:
        typer.echo("\n".join(f"--- {job.path}\n{job.script}---" for job in jobs))
        typer.echo("dry run: nothing was written or submitted")
        return
    ids, said = submit_all(jobs)
    for name, job_id in ids.items():
        typer.echo(f"submitted: {name}: job {job_id}" + (f" ({said[name]})" if said[name] else ""))
    typer.echo(f"next: megabiomed status {stages[0].folder} --watch")


def _sweep(plan: Plan, words: list[str], limit: int | None, dry_run: bool) -> None:
    """Submit the runs of a sweep, or print what they would be."""
    from megabiomed.launch.sweep import grid
    from megabiomed.launch.sweep_submit import lines_of_plan, planned, submit_sweep

    members = grid(words)
    folder, jobs = planned(plan, members)
    typer.echo("\n".join(lines_of_plan(members, jobs, limit)))
    if dry_run:
        typer.echo(f"--- {jobs[0][0].path}\n{jobs[0][0].script}---\nthe other scripts differ in their run folders")
        typer.echo("dry run: nothing was written or submitted")
        return
    for line in submit_sweep(folder, members, jobs, limit):
        typer.echo(line)
    typer.echo(f"next: megabiomed sweep {folder}")


def _plan(stage: ChainStage, todo: bool = True) -> list[str]:
    """Describe a stage for the operator who decides whether to submit it."""
    from megabiomed.launch.by_hand import typed_commands

    if not todo:
        return [f"{stage.name} ({stage.kind}): finished already in {stage.folder}"]
    shapes = [(stage.nodes, stage.ranks_per_node), *((part.nodes, part.ranks_per_node) for part in stage.components)]
    nodes = " + ".join(f"{count} {'node' if count == 1 else 'nodes'} x {ranks}" for count, ranks in shapes)
    waits = f" after {', '.join(stage.after)}" if stage.after else ""
    extra = stage.config.extra_ranks if stage.config is not None else 0
    encoders = f" ({extra} with encoders alone)" if extra else ""
    lines = [f"{stage.name} ({stage.kind}): {nodes} = {stage.ranks} ranks{encoders}, {stage.time}{waits}"]
    if len(stage.sizes) > 1:
        smaller = ", ".join(map(str, stage.sizes[1:]))
        lines += [f"  goes on with fewer nodes after {stage.cluster.shrink_after} s: {smaller}"]
    lines += [f"  run folder: {stage.folder}"]
    hosts = stage.nodes + sum(part.nodes for part in stage.components)
    where = f" (on each of {hosts} hosts)" if hosts > 1 else ""
    return lines + [f"  without SLURM{where}: {line}" for line in typed_commands(stage)]


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
    example = (
        "Examples: megabiomed submit biomedgpt-lm-7b --cluster h100 --nodes 12 model.init_from=Llama-2-7b-hf --dry-run; "
        "megabiomed submit biomedgpt --cluster h100 --sbatch account=bio --sbatch exclude=n3; "
        "megabiomed submit biomedgpt-lm-7b-medmcqa --cluster h100 --sweep optimizer.lr=1e-5,2e-5 --sweep-limit 2"
    )
    app.command(epilog=example)(submit)
    for command in (status, logs, cancel, save, pause, hold, release, resubmit):
        app.command()(command)
