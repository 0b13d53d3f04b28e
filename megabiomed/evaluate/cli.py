"""`megabiomed evaluate` and `megabiomed compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from megabiomed.ground.errors import ConfigError
from megabiomed.ground.options import LARGEST_SEED

BASE = "New location of the base model the adapters were trained on, if it has moved."

_EXAMPLE = (
    "Example: megabiomed evaluate runs/biomedgpt-lm-7b --task pubmedqa=pubmedqa/ori_pqal.json "
    "--task medmcqa=medmcqa/dev.json --shots 3 --train medmcqa=medmcqa/train.json"
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(epilog=_EXAMPLE)(evaluate)
    app.command("align-evaluate", hidden=True)(align_evaluate)
    app.command(epilog="Example: megabiomed compare evaluations/base evaluations/tuned")(compare)


_ALIGNED = {"model", "split", "retrieval", "limit", "output", "max_new_tokens", "score_tokenizer"}
"""What `--split` can be given with."""


def evaluate(
    ctx: typer.Context,
    model: Annotated[
        Path, typer.Argument(help="Run folder, checkpoint of any topology, or exported Hugging Face folder.")
    ],
    base: Annotated[Path | None, typer.Option(help=BASE)] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE[:SPLIT] of questions; repeat the option for more.")
    ] = None,
    template: Annotated[list[str] | None, typer.Option(help="NAME=TEMPLATE; default: the dataset's own.")] = None,
    shots: Annotated[int, typer.Option(min=0, help="Few-shot examples before each question.")] = 0,
    train: Annotated[list[str] | None, typer.Option(help="NAME=FILE with the few-shot examples of a task.")] = None,
    mode: Annotated[
        Literal["choice", "generate"], typer.Option(help="Score the options, or generate an answer.")
    ] = "choice",
    split: Annotated[
        Path | None,
        typer.Option(help="Questions on molecules and proteins (`multimodal build`), for an aligned model."),
    ] = None,
    retrieval: Annotated[
        Path | None, typer.Option(help="Training split for the retrieval baseline: its nearest item answers too.")
    ] = None,
    perplexity: Annotated[list[str] | None, typer.Option(help="NAME=STORE: perplexity of a domain.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Largest number of windows per store.")] = 64,
    seq_length: Annotated[int, typer.Option(min=1, help="Tokens per window of a store.")] = 2048,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of questions per task.")] = None,
    contaminated: Annotated[
        Literal["mark", "refuse", "drop"], typer.Option(help="What to do with questions that are in the training data.")
    ] = "mark",
    store: Annotated[
        list[Path] | None,
        typer.Option(help="Another token store, or decontamination.json, to search for the questions."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens of a generated answer.")] = 32,
    score_tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="vocab.txt or tokenizer.json: BLEU and METEOR count its pieces too (SciBERT's for ChEBI-20)."
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as conversations, by the chat template of the model's tokenizer.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the few-shot examples.")] = 0,
    output: Annotated[Path | None, typer.Option(help="Result folder; default: RUN/evaluations/STEP-SETTINGS.")] = None,
    tp: Annotated[int, typer.Option(min=1, help="Tensor-parallel ranks.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline-parallel ranks.")] = 1,
    nproc: Annotated[
        int | None, typer.Option(min=1, help="Processes to start here; default: tp x pp, or all devices.")
    ] = None,
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Compute type.")] = "fp32",
    window: Annotated[int, typer.Option(min=64, help="Tokens per forward pass.")] = 4096,
    dry_run: Annotated[
        bool, typer.Option(help="Check everything, print the cost and the first prompts; evaluate nothing.")
    ] = False,
) -> None:
    """Accuracy on questions, scores of free answers, perplexity by domain; rerun the same command to resume.

    Under torchrun or srun it joins the ranks, otherwise it starts them. Every prediction is kept.
    """
    if split is not None:
        _refuse_others(ctx)
        _evaluate_aligned(model, split, retrieval, limit, output, max_new_tokens, score_tokenizer)
        return
    from megabiomed.config.base import parse
    from megabiomed.evaluate.settings import EvaluateSettings, pairs, parse_tasks
    from megabiomed.evaluate.start import evaluate as start

    if retrieval is not None:
        raise ConfigError("--retrieval answers beside an aligned model", do="give --split too, or leave it out")
    if train and not shots:
        raise ConfigError(
            "--train is where few-shot examples come from", got="--shots 0", do="give --shots K, or leave it out"
        )
    tasks = parse_tasks(task or [], template or [], train or [])
    values = {
        "model": model, "base": base, "tasks": [asked.model_dump(mode="json") for asked in tasks], "mode": mode,
        "shots": shots,
        "perplexity": {name: Path(path) for name, path in pairs(perplexity or [], "--perplexity").items()},
        "samples": samples, "seq_length": seq_length, "limit": limit, "contaminated": contaminated, "seed": seed,
        "stores": store or [], "max_new_tokens": max_new_tokens,
        "score_tokenizer": score_tokenizer, "output": output, "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp, "precision": precision, "window": window, "chat": chat,
    }  # fmt: skip
    settings = parse(EvaluateSettings, values, "the command line")
    assert isinstance(settings, EvaluateSettings)
    start(settings, nproc, dry_run)


def _refuse_others(ctx: typer.Context) -> None:
    """An option that `--split` does not know would be ignored, `--dry-run` by working for hours."""
    given = [name for name in ctx.params if (source := ctx.get_parameter_source(name)) and source.name == "COMMANDLINE"]
    others = [f"--{name.replace('_', '-')}" for name in given if name not in _ALIGNED]
    if others:
        raise ConfigError(
            "--split stands alone", got=", ".join(others),
            expected="--retrieval, --limit, --output, --max-new-tokens, --score-tokenizer",
            do="leave the others out; evaluate texts (--task, --perplexity) by another call",
        )  # fmt: skip


def _evaluate_aligned(
    model: Path, split: Path, retrieval: Path | None, limit: int | None, output: Path | None, tokens: int,
    score_tokenizer: Path | None,
) -> None:  # fmt: skip
    from megabiomed.align.scores import evaluate_command

    evaluate_command(
        model, split, retrieval, limit or 100, output / "scores.json" if output else None, tokens, score_tokenizer
    )


def align_evaluate(
    run: Annotated[Path, typer.Argument(help="Alignment run, one of its stages, a checkpoint, or an export.")],
    split: Annotated[Path, typer.Option(help="Held-out split of a dataset.")],
    train: Annotated[Path | None, typer.Option(help="Training split, for the retrieval baseline.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Largest number of questions to answer.")] = 100,
    output: Annotated[Path | None, typer.Option(help="JSON file to write, with the answers.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Largest number of tokens of an answer.")] = 128,
) -> None:
    """The old name of `megabiomed evaluate --split`, for one release; `--output` is a file here, a folder there."""
    from megabiomed.align.scores import evaluate_command
    from megabiomed.processes import platform

    typer.echo(
        "align-evaluate is deprecated: use `megabiomed evaluate RUN --split SPLIT --max-new-tokens 128` (--train is "
        "--retrieval, --samples is --limit, --output is a folder there)", err=True,
    )  # fmt: skip
    evaluate_command(run, split, train, samples, output, max_new_tokens)
    platform.leave()


def compare(
    a: Annotated[Path, typer.Argument(help="Result folder of an evaluation.")],
    b: Annotated[Path, typer.Argument(help="Result folder to compare with it.")],
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Paired tests of two evaluations on the questions that both answered: exact McNemar and bootstrap."""
    from megabiomed.evaluate.compare import compare_command

    compare_command(a, b, output)
