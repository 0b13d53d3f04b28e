"""`megabiomed submit`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from megabiomed.ground.errors import ConfigError

if TYPE_CHECKING:
    from megabiomed.config.cluster import Flags
    from megabiomed.launch.stage import ChainStage
    from megabiomed.launch.submit import Job
    from megabiomed.launch.sweep_submit import Plan


EXAMPLE = (
    "Examples: megabiomed submit biomedgpt-lm-7b --cluster h100 --nodes 12 model.init_from=Llama-2-7b-hf --dry-run; "
    "megabiomed submit biomedgpt --cluster h100 --sbatch account=bio --sbatch exclude=n3; "
    "megabiomed submit --selftest --cluster h100 --nodes 2 --wait; "
    "megabiomed submit biomedgpt-lm-7b-medmcqa --cluster h100 --sweep optimizer.lr=1e-5,2e-5 --sweep-limit 2"
)


def submit(
    context: typer.Context,
    cluster: Annotated[str, typer.Option(help="Cluster file, or the name of one in configs/clusters.")],
    run: Annotated[
        str | None, typer.Argument(help="Run or chain file, or the name of one in configs/runs, configs/chains.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[a.b=value]...", help="Keys to override.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Nodes of a single run, or of a self-test (1).")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(help="Any sbatch option, e.g. --sbatch qos=high; repeat the option for more.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,VALUE", help="A run for each value; of several options each combination."),
    ] = None,
    sweep_limit: Annotated[int | None, typer.Option(min=1, help="Runs of a sweep at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and the scripts; submit nothing.")] = False,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Instead of a run: test this cluster in one job, without data.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow a self-test to its verdict.")] = False,
) -> None:
    """Submit a run, or a chain of runs, as SLURM jobs that survive time limits, preemption and dead nodes."""
    from megabiomed.config.cluster import load_cluster, parse_flags
    from megabiomed.launch.commands import parse_command
    from megabiomed.launch.stage import load_stages
    from megabiomed.launch.submit import render

    flags = parse_flags(sbatch or [])
    if selftest:
        _refuse_beside_selftest({"a run": run, "overrides": overrides, "--sweep": sweep})
        _selftest(cluster, nodes or 1, flags, dry_run, wait)
        return
    if run is None:
        raise ConfigError("submit needs a run", got="none", do="name a run or chain file, or add --selftest")
    if wait:
        raise ConfigError("--wait follows a self-test alone", do=f"megabiomed status {run} --watch")
    named = run
    parse = partial(parse_command, context.find_root())

    def plan(more: list[str]) -> list[Job]:
        stages = load_stages(named, load_cluster(cluster), [*(overrides or []), *more], nodes, parse)
        return [render(replace(stage, sbatch=stage.sbatch | flags)) for stage in stages]

    if sweep:
        _sweep(plan, sweep, sweep_limit, dry_run)
        return
    _chain(plan([]), parse, dry_run)


def _chain(jobs: list[Job], parse: Callable[[list[str]], dict[str, Any]], dry_run: bool) -> None:
    """Submit the stages of a chain, or print what they would be."""
    from megabiomed.config.notify import unusable
    from megabiomed.launch.again import unfinished
    from megabiomed.launch.commands import missing
    from megabiomed.launch.submit import submit_all

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


def _refuse_beside_selftest(given: dict[str, object]) -> None:
    if beside := [name for name, value in given.items() if value]:
        raise ConfigError("--selftest has its own run", got=", ".join(beside), do="leave it out")


def _selftest(name: str, nodes: int, flags: Flags, dry_run: bool, wait: bool) -> None:
    """Submit the self-test of a cluster, or print its plan and script."""
    from megabiomed.config.cluster import load_cluster
    from megabiomed.launch.selftest.submit import await_verdict, lines_of_plan, selftest_job
    from megabiomed.launch.submit import submit_all

    job = selftest_job(name, load_cluster(name), nodes, flags)
    typer.echo("\n".join(lines_of_plan(job)))
    if dry_run:
        typer.echo(f"--- {job.path}\n{job.script}---\ndry run: nothing was written or submitted")
        return
    ids, said = submit_all([job])
    number = ids[job.stage.name]
    typer.echo(
        f"submitted: {job.stage.name}: job {number}" + (f" ({said[job.stage.name]})" if job.stage.name in said else "")
    )
    if not wait:
        typer.echo(f"next: megabiomed logs {job.stage.folder} --job --follow")
    elif not await_verdict(job.stage.folder, number, typer.echo):
        raise typer.Exit(1)


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
    from megabiomed.launch.stage_in.wanted import plan

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
    lines += [f"  run folder: {stage.folder}", *plan(stage)]
    hosts = stage.nodes + sum(part.nodes for part in stage.components)
    where = f" (on each of {hosts} hosts)" if hosts > 1 else ""
    return lines + [f"  without SLURM{where}: {line}" for line in typed_commands(stage)]
