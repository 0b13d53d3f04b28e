"""The `megabiomed` command. Heavy imports happen inside the commands, so that --help answers at once."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from megabiomed import __version__
from megabiomed.corpus.cli import corpus_app
from megabiomed.corpus.cli_tokenizer import tokenizer_app
from megabiomed.doctor.cli import checkpoint_app
from megabiomed.doctor.cli_hf import Dtype
from megabiomed.encoders.cli import encoder_app
from megabiomed.evaluate.cli import BASE
from megabiomed.evaluate.cli import register as register_evaluate
from megabiomed.ground import options
from megabiomed.ground.outcome import end
from megabiomed.ground.secrets import guard_process
from megabiomed.kernels.cli import bench_app
from megabiomed.launch.cli import register as register_launch
from megabiomed.launch.cli_notify import register as register_notify
from megabiomed.launch.cli_tables import register as register_tables
from megabiomed.processes.signals import hear
from megabiomed.runs.cli import register as register_runs
from megabiomed.runs.cli_data import data_app
from megabiomed.samples.multimodal.cli import multimodal_app
from megabiomed.samples.questions.cli import questions_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train BioMedGPT at any scale: corpus, continued pretraining with TP x PP x ZeRO-3, checkpoints.",
)
app.add_typer(corpus_app, name="corpus")
app.add_typer(tokenizer_app, name="tokenizer")
app.add_typer(data_app, name="data")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(bench_app, name="bench")
app.add_typer(questions_app, name="questions")
app.add_typer(multimodal_app, name="multimodal")
app.add_typer(encoder_app, name="encoder")
# The names of these two groups in the last release.
app.add_typer(questions_app, name="qa", hidden=True)
app.add_typer(multimodal_app, name="dataset", hidden=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


register_runs(app)


@app.command(epilog='Example: megabiomed chat runs/align-demo --molecule CCO --question "What does it contain?"')
def chat(
    run: Annotated[Path, typer.Argument(help="Alignment run, one of its stages, a checkpoint, or an export.")],
    question: Annotated[str | None, typer.Option(help="Question; default: every line of standard input.")] = None,
    molecule: Annotated[list[str] | None, typer.Option(help="SMILES; repeat the option for more.")] = None,
    protein: Annotated[
        list[str] | None, typer.Option(help="Sequence or FASTA file; repeat the option for more.")
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=TEXT", help="An item of any modality; repeat the option for more."),
    ] = None,
    batch: Annotated[Path | None, typer.Option(help="File of questions in any dataset layout.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="JSONL for the answers of a batch; continued if it exists.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Prompt template; default: that of the training data.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens of an answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(callback=options.temperature, min=0.0, help="0 takes the most likely token.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option(callback=options.finite, min=0.0, max=1.0, help="Nucleus sampling.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from this many most likely tokens; 0: from all.")] = 0,
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of sampling.")] = 0,
) -> None:
    """Answer in free text about molecules and proteins, in one process, from a checkpoint of any topology."""
    from megabiomed.align.chat import Sampling, chat_command

    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, seed)
    items = {"molecule": molecule or [], "protein": protein or []}
    for text in item or []:
        name, _, value = text.partition("=")
        items.setdefault(name, []).append(value)
    chat_command(run, question, items, batch, output, sampling, template)
    _leave()


@app.command("align-export", epilog="Example: megabiomed align-export runs/align-demo BioMedGPT-demo --dtype bf16")
def align_export(
    run: Annotated[Path, typer.Argument(help="Alignment run, one of its stages, or a checkpoint.")],
    output: Annotated[Path, typer.Argument(help="Folder to create.")],
    dtype: Annotated[Dtype, typer.Option(help="Element type of the language model.")] = Dtype.bf16,
) -> None:
    """One folder with language model (as transformers loads it), encoders and adaptors; `chat` answers from it."""
    from megabiomed.align.export import export_aligned

    typer.echo(f"written: {export_aligned(run, output, dtype.value)}")


@app.command(epilog='Example: megabiomed generate runs/demo --prompt "The molecular formula of aspirin is"')
def generate(
    run: Annotated[Path, typer.Argument(help="Run folder, checkpoint or Hugging Face folder.")],
    prompt: Annotated[str, typer.Option(help="Text to continue.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens to add.")] = 48,
    temperature: Annotated[
        float, typer.Option(callback=options.temperature, min=0.0, help="0 takes the most likely token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=options.LARGEST_SEED, help="Seed of sampling.")] = 0,
    base: Annotated[Path | None, typer.Option(help=BASE)] = None,
) -> None:
    """Continue a text, in one process."""
    from megabiomed.evaluate.single import generate_text

    typer.echo(generate_text(run, prompt, max_new_tokens, temperature, seed, base))
    _leave()


@app.command(epilog="Example: megabiomed validate runs/demo --store corpus/s2orc/validation")
def validate(
    run: Annotated[Path, typer.Argument(help="Run folder, checkpoint or Hugging Face folder.")],
    store: Annotated[Path | None, typer.Option(help="Token store; default: the run's validation store.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Largest number of windows to use.")] = 64,
    base: Annotated[Path | None, typer.Option(help=BASE)] = None,
) -> None:
    """Mean loss per token of a model on a store, in one process; the figure of `evaluate --perplexity`."""
    from megabiomed.evaluate.single import validate as measure
    from megabiomed.ground.figures import shown

    found = measure(run, store, samples, base)
    typer.echo(
        f"validation_loss: {shown(found.loss, '.4f')} perplexity: {shown(found.perplexity, '.3f')} "
        f"tokens: {found.tokens} windows: {found.windows} of {found.of_windows}"
    )
    _leave()


register_launch(app)
register_tables(app)
register_notify(app)
register_evaluate(app)
options.guard(app)  # after the last command


def _leave() -> NoReturn:
    from megabiomed.processes import platform

    platform.leave()


def main() -> None:
    """Run the command; a wrong input is one message and exit code 2, a defect says that it is one."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # A name of a file that is not UTF-8 must not end the command that only prints it.
            stream.reconfigure(errors="backslashreplace")
    guard_process()
    hear()
    try:
        app()
    except Exception as error:
        sys.exit(end(error, sys.argv[1:]))


if __name__ == "__main__":
    main()
