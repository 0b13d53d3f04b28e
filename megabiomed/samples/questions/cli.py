"""`megabiomed qa`: look at files of questions before they cost an hour of a cluster; write a set without data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from megabiomed.ground.options import LARGEST_SEED

questions_app = typer.Typer(
    no_args_is_help=True, help="Biomedical questions: PubMedQA, MedMCQA, MedQA-USMLE, free answers."
)


@questions_app.command(epilog="Example: megabiomed questions generate runs/questions")
def generate(
    output: Annotated[Path, typer.Argument(help="Folder to write.")],
    train: Annotated[int, typer.Option(min=1, help="Training questions of each dataset.")] = 600,
    test: Annotated[int, typer.Option(min=1, help="Test questions of each dataset.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the questions.")] = 0,
) -> None:
    """Write questions in every published layout, learnable by rule, train and test disjoint; no network."""
    from megabiomed.samples.questions.generate import generate_questions

    for path in generate_questions(output, train, test, seed):
        typer.echo(f"written: {path}")


@questions_app.command(
    epilog="Example: megabiomed questions build medmcqa/train.json --output qa/medmcqa --tokenizer tokenizer.model"
)
def build(
    files: Annotated[list[Path], typer.Argument(help="Files of questions in published layouts.")],
    output: Annotated[Path, typer.Option(help="Store to create.")],
    tokenizer: Annotated[Path, typer.Option(help="tokenizer.model or tokenizer.json of the language model.")],
    template: Annotated[str | None, typer.Option(help="Prompt template; default: the dataset's own.")] = None,
    window: Annotated[int, typer.Option(min=8, help="data.seq_length of the run; longer contexts are cut.")] = 2048,
    split: Annotated[
        Literal["auto", "all", "train", "test"],
        typer.Option(help="Part of a PubMedQA file; auto leaves out the official test ids if it has them."),
    ] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of questions per file.")] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask as conversations, by the tokenizer's chat template.")
    ] = False,
) -> None:
    """Tokenize questions once for `megabiomed finetune`; what is left out is counted and listed in rejects.jsonl."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from megabiomed.samples.questions.store import BuildSettings, QuestionStore, build_store
    from megabiomed.tokenizer.files import open_tokenizer

    with Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
    ) as bar:
        task = bar.add_task("tokenize")
        build_store(files, output, open_tokenizer(tokenizer), BuildSettings(window, template, split, limit, chat),
                    lambda done, total: bar.update(task, completed=done, total=total))  # fmt: skip
    typer.echo(f"written: {output}: {QuestionStore(output).describe()}")


@questions_app.command(
    epilog="Example: megabiomed questions inspect pubmedqa/ori_pqal.json --split test --template pubmedqa"
)
def inspect(
    file: Annotated[Path, typer.Argument(help=".json, .jsonl, .jsonl.gz or .parquet in a published layout.")],
    split: Annotated[
        Literal["all", "train", "test"], typer.Option(help="Part of a PubMedQA file with its ground truth.")
    ] = "all",
    template: Annotated[str | None, typer.Option(help="Prompt template; default: the dataset's own.")] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="JSONL file to write, with every entry that was left out.")
    ] = None,
) -> None:
    """Counts, what is left out and why, answers by frequency, and the first question as it is asked."""
    from collections import Counter

    from megabiomed.samples.questions.readers import read_questions
    from megabiomed.samples.questions.templates import find_template, render
    from megabiomed.samples.rejects import write_rejects

    found = read_questions(file, split)
    name, chosen = find_template(template, found.kind)
    for line in found.describe():
        typer.echo(line)
    if rejects is not None:
        write_rejects(rejects, found.rejects)
        typer.echo(f"written: {rejects}, {len(found.rejects)} entries")
    labels = Counter(r.answer if found.kind == "pubmedqa" else r.label for r in found.records if r.label is not None)
    if labels:
        typer.echo(
            "answers: "
            + ", ".join(f"{label} {count / len(found.records):.1%}" for label, count in labels.most_common())
        )
    prompt = render(chosen, found.records[0])
    typer.echo(f"template: {name} ({chosen.origin})\n---\n{prompt.system}{prompt.text}[{prompt.answer}]")
