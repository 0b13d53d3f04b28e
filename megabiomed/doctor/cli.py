"""`megabiomed checkpoint`: the doctor. One process, no torch.distributed, no GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from megabiomed.doctor.cli_hf import export_hf, export_peft, import_hf
from megabiomed.ground.errors import CheckpointError

# torch and the rest are imported inside the commands, so that --help answers at once.
checkpoint_app = typer.Typer(
    help="Inspect, verify, compare, prune, import and export checkpoints.", no_args_is_help=True
)
checkpoint_app.command("import-hf")(import_hf)
checkpoint_app.command("export-hf")(export_hf)
checkpoint_app.command("export-peft")(export_peft)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Where = Annotated[Path, typer.Argument(help="A checkpoint, a `checkpoints` folder or a run folder.")]


@checkpoint_app.command()
def inspect(
    path: Where,
    topology: Annotated[
        str | None, typer.Option(help='Topology: show what each rank would need, e.g. "tp=2 pp=2 dp=4 zero=3".')
    ] = None,
    config: Annotated[
        str | None, typer.Option(help="Run file to compare with the configuration in the checkpoint.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show step, tokens, topology and size of checkpoints, and whether each is complete.

    Example: megabiomed checkpoint inspect runs/demo --topology "tp=2 dp=4 zero=3" --config biomedgpt-lm-7b
    """
    from megabiomed.checkpoint.locate import locate
    from megabiomed.checkpoint.uses import SAVED
    from megabiomed.doctor.report import cell, summary, table_of

    located = locate(path).expect(SAVED)
    rows = [summary(folder) for folder in located.checkpoints()]
    report: dict[str, Any] = {"checkpoints": rows}
    if topology or config:
        from megabiomed.doctor.report import config_report, needs_report

        opened = located.open()
        if topology:
            report["needs"] = needs_report(opened, topology)
        if config:
            report["config"] = config_report(opened, config)
    if as_json:
        typer.echo(json.dumps(report if topology or config else rows, indent=1))
        return
    table_of(rows)
    for row in rows:
        if not row["complete"]:
            typer.echo(f"{row['path']}: {row['reason']}")
    if "needs" in report:
        from megabiomed.doctor.report import print_needs

        print_needs(report["needs"])
    for item in report.get("config", ()):
        typer.echo(f"config: {item['key']}: {cell(item['checkpoint'])} -> {cell(item['config'])}")
    if report.get("config") == []:
        typer.echo("config: no difference")


@checkpoint_app.command()
def verify(path: Where, as_json: AsJson = False) -> None:
    """Read every byte of checkpoints and compare it with the hashes taken when they were written.

    Exits 2 when one is damaged. Example: megabiomed checkpoint verify runs/demo/checkpoints/step_00000120
    """
    from megabiomed.checkpoint.locate import locate
    from megabiomed.checkpoint.uses import SAVED
    from megabiomed.doctor.report import problems_of

    found = {}
    for folder in locate(path).expect(SAVED).checkpoints():
        found[str(folder)] = problems = problems_of(folder)
        if not as_json:
            typer.echo(f"{folder}: " + ("; ".join(problems) if problems else "every file is as it was written"))
    if as_json:
        typer.echo(json.dumps([{"path": name, "problems": problems} for name, problems in found.items()], indent=1))
    if damaged := sum(map(bool, found.values())):
        raise CheckpointError(f"{damaged} checkpoint(s) under {path} are damaged", do="resume from an older one")


@checkpoint_app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A checkpoint, a run folder (its newest) or a Hugging Face folder.")],
    second: Annotated[Path, typer.Argument(help="The checkpoint or folder to compare it with.")],
    everything: Annotated[bool, typer.Option("--all", help="Show equal tensors too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two models tensor by tensor: values, moments, shapes. Topologies may differ. Exits 1 when they differ.

    Example: megabiomed checkpoint diff runs/a/checkpoints/step_00000120 runs/b
    """
    from megabiomed.doctor.report import compare, print_differences

    found = compare(first, second)
    different = [item for item in found if not item.equal]
    if as_json:
        typer.echo(json.dumps([item.values() for item in (found if everything else different)], indent=1))
    else:
        print_differences(found if everything else different)
        typer.echo(f"{len(different)} of {len(found)} tensors and moments differ")
    if different:
        # As diff(1): 1 means different, 2 an error.
        raise typer.Exit(1)


@checkpoint_app.command()
def prune(
    path: Annotated[Path, typer.Argument(help="A run folder, or its `checkpoints` folder.")],
    keep_last: Annotated[int, typer.Option(min=1, help="Newest valid checkpoints to keep.")],
    keep_every: Annotated[int, typer.Option(min=0, help="Also keep multiples of this step; 0: none.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed; remove nothing.")] = False,
) -> None:
    """Remove checkpoints that retention does not keep, and the remains of interrupted saves.

    A damaged checkpoint never takes the place of a valid one; a save that is going on now is not touched.
    Example: megabiomed checkpoint prune runs/demo --keep-last 2 --keep-every 1000 --dry-run
    """
    from megabiomed.checkpoint.catalog import prune as remove
    from megabiomed.checkpoint.catalog import superfluous
    from megabiomed.checkpoint.fence import holder
    from megabiomed.checkpoint.locate import CHECKPOINTS, locate
    from megabiomed.checkpoint.uses import OWN_FOLDER

    run = locate(path).expect(OWN_FOLDER).run
    assert run is not None
    work = superfluous if dry_run else remove
    # The temporary folder of the live writer stays.
    doomed = work(run / CHECKPOINTS, keep_last, keep_every, holder(run))
    for item in doomed:
        typer.echo(f"{'would remove' if dry_run else 'removed'}: {item}")
    if not doomed:
        typer.echo("nothing to remove")
