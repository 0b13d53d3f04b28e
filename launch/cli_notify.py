"""`megabiomed notify`: test the receivers of a cluster file, or deliver what a run could not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from megabiomed.ground.errors import ConfigError, LaunchError


def notify(
    run: Annotated[Path | None, typer.Argument(help="Run folder: deliver what is not delivered yet.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Send a test message and show the answers.")] = False,
    cluster: Annotated[str | None, typer.Option(help="Cluster file, or the name of one in configs/clusters.")] = None,
) -> None:
    """Try the receivers of notifications, or tell them what a run could not.

    Examples: megabiomed notify --test --cluster site.yaml; megabiomed notify runs/demo
    """
    if test == (run is not None):
        raise ConfigError("nothing to do", expected="either a run folder, or --test with --cluster")
    if run is not None:
        _deliver(run)
    elif cluster is None:
        raise ConfigError("--test needs --cluster", do="name the cluster file whose `notify` is to be tried")
    else:
        _test(cluster)


def _test(cluster: str) -> None:
    from megabiomed.config.cluster import load_cluster
    from megabiomed.launch.notify.delivery import send_test
    from megabiomed.launch.notify.senders import Outcome

    receivers = load_cluster(cluster).notify
    if not receivers:
        raise ConfigError(f"{cluster} has no `notify`", do="add receivers (docs/operators.md)")
    bad = []
    for receiver in receivers:
        outcome, said = send_test(receiver, cluster)
        typer.echo(f"{receiver.name}: {outcome}: {said}")
        bad += [receiver.name] if outcome != Outcome.SENT else []
    if bad:
        raise LaunchError("the test did not arrive everywhere", got=", ".join(bad))


def _deliver(run: Path) -> None:
    from megabiomed.launch import records
    from megabiomed.launch.notify.delivery import deliver, pending

    if not records.read_job(run):
        raise LaunchError(f"{run} was not submitted", do="give the folder of a submitted run")
    before = pending(run)
    for line in deliver(run, all_at_once=True):
        typer.echo(line)
    left = pending(run)
    for name in before:
        typer.echo(f"{name}: {before[name] - left.get(name, 0)} of {before[name]} messages delivered")
    if not before:
        typer.echo("everything was delivered")
    if left:
        raise LaunchError("some messages could not be delivered", got=", ".join(left), do="try again later")


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(notify)
