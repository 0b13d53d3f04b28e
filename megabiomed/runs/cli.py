"""`megabiomed run | pretrain | align | finetune | plot | report | track | explain | replay`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from megabiomed.runs.explain.cli import explain

RunFile = Annotated[str, typer.Argument(help="Run file, or the name of one in configs/runs.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Processes to start here; default: what the topology needs.")
]
DryRun = Annotated[bool, typer.Option(help="Check the run, print its configuration and cost; start nothing.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[a.b=value]...", help="Keys to override.")]
Stage = Annotated[str | None, typer.Option(help="Run only this stage of an alignment; default: all, in order.")]


def run(
    config: RunFile,
    overrides: Overrides = None,
    nproc: Processes = None,
    stage: Stage = None,
    dry_run: DryRun = False,
) -> None:
    """Start a run of any kind from its file. Starts its own workers; under torchrun or srun it joins them."""
    _start(None, config, overrides, nproc, stage, dry_run)


def pretrain(config: RunFile, overrides: Overrides = None, nproc: Processes = None, dry_run: DryRun = False) -> None:
    """Continued pretraining. Starts its own workers; under torchrun or srun it joins them."""
    _start("pretrain", config, overrides, nproc, None, dry_run)


def align(
    config: RunFile,
    overrides: Overrides = None,
    nproc: Processes = None,
    stage: Stage = None,
    dry_run: DryRun = False,
) -> None:
    """Staged alignment of molecules and proteins with a language model; resumes where it stopped."""
    _start("align", config, overrides, nproc, stage, dry_run)


def finetune(config: RunFile, overrides: Overrides = None, nproc: Processes = None, dry_run: DryRun = False) -> None:
    """Fine-tune a model on questions, in full or with low-rank adapters; resumes where it stopped."""
    _start("finetune", config, overrides, nproc, None, dry_run)


def plot(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    output: Annotated[Path, typer.Option(help="Picture to write: .svg, .png or .pdf.")] = Path("curve.svg"),
) -> None:
    """Draw training and validation loss and the learning rate of a run."""
    from megabiomed.runs.plot import plot_run

    plot_run(run, output)
    typer.echo(f"written: {output}")


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folder or stage of an alignment; several are compared.")],
    output: Annotated[Path, typer.Option(help="Page to write.")] = Path("report.html"),
    csv: Annotated[Path | None, typer.Option(help="Write the figures of all steps as a table, too.")] = None,
) -> None:
    """Write a page about a run: curves with restarts, where the time went, starts, checkpoints, events; or compare runs."""
    from megabiomed.runs.report.write import write_report

    for file in write_report(runs, output, csv):
        typer.echo(f"written: {file}")


def track(run: Annotated[Path, typer.Argument(help="Folder of a run that is over.")]) -> None:
    """Tell the trackers of a run what they were not told while it ran, because they were away."""
    from megabiomed.runs.tracking.later import tell_rest

    for name, told in tell_rest(run).items():
        typer.echo(f"{name}: {told}")


def replay(
    run: Annotated[Path, typer.Argument(help="Run folder, alignment or stage of one.")],
    step: Annotated[int, typer.Option(min=1, help="Step to compute again.")],
    topology: Annotated[
        str | None,
        typer.Option(
            help="Such as `tp=2 pp=2 zero=1`, or `tp=1` for one process; default: that of the run's last start."
        ),
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Of a step that was computed more than once (rewind): which time.")
    ] = None,
    from_start: Annotated[
        bool, typer.Option("--from-start", help="Begin with the first weights of the run, not with a checkpoint.")
    ] = False,
    stage: Annotated[str | None, typer.Option(help="Stage of an alignment.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compute one step again from the newest checkpoint before it, on any topology, and compare it with what was recorded.

    Names the first tensor whose gradient differs, or the layer and the document where the first value is not finite.
    """
    from megabiomed.runs.replay.start import ReplayOptions
    from megabiomed.runs.replay.start import replay as compute

    compute(run, ReplayOptions(step, topology, attempt, from_start, stage), as_json)


def _start(
    kind: str | None, run: str, overrides: list[str] | None, nproc: int | None, stage: str | None, dry_run: bool
) -> None:
    from megabiomed.runs.start import StartOptions, start

    start(run, overrides or [], StartOptions(nproc, stage, dry_run), kind)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    examples: dict[Callable[..., None], str] = {
        run: "run demo train.steps=20 --dry-run",
        pretrain: "pretrain demo train.steps=20 parallel.zero_stage=1",
        align: "align align-demo parallel.tensor_parallel_size=2",
        finetune: "finetune finetune-demo lora=null parallel.tensor_parallel_size=2",
        plot: "plot runs/demo --output curve.svg",
        report: "report runs/demo --output demo.html --csv demo.csv",
        track: "track runs/demo",
        explain: "explain runs/demo --step 12 --quarantine worst",
        replay: "replay runs/demo --step 37 --topology tp=1",
    }
    for command, example in examples.items():
        app.command(epilog=f"Example: megabiomed {example}")(command)
