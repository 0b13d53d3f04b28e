"""`megabiomed dataset`: questions on molecules and proteins become splits that `align` trains on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from megabiomed.ground.options import LARGEST_SEED, finite

multimodal_app = typer.Typer(no_args_is_help=True, help="Questions on molecules and proteins for the alignment.")


@multimodal_app.command(epilog="Example: megabiomed multimodal generate runs/questions.json")
def generate(
    output: Annotated[Path, typer.Argument(help="JSON file to write.")],
    proteins: Annotated[int, typer.Option(min=1, help="Protein questions.")] = 300,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the sequences.")] = 0,
) -> None:
    """Write questions whose answers rdkit computes or that are counted in the sequence; no network."""
    from megabiomed.samples.multimodal.generate import generate_questions

    typer.echo(f"written: {output}, {generate_questions(output, proteins, seed)} questions")


@multimodal_app.command(
    epilog="Example: megabiomed multimodal build PubChemQA/train.json --output qa --tokenizer tokenizer.model"
)
def build(
    files: Annotated[list[Path], typer.Argument(help="OpenBioMed .json, ChEBI-20 .txt, Swiss-Prot .dat, .sdf, .csv.")],
    output: Annotated[Path, typer.Option(help="Folder for train/, validation/ and test/.")],
    tokenizer: Annotated[Path, typer.Option(help="tokenizer.model or tokenizer.json of the language model.")],
    split: Annotated[
        Literal["random", "cluster", "none"],
        typer.Option(help="cluster keeps scaffolds and similar sequences together."),
    ] = "random",
    template: Annotated[str, typer.Option(help="Prompt template: biomedgpt, biomedgpt-smiles or plain.")] = "biomedgpt",
    max_atoms: Annotated[int, typer.Option(min=1, help="Larger molecules are skipped.")] = 256,
    max_residues: Annotated[int, typer.Option(min=1, help="Longer proteins are cut.")] = 1022,
    salts: Annotated[
        Literal["keep", "largest", "refuse"], typer.Option(help="What to do with molecules of several fragments.")
    ] = "keep",
    max_answer_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    long_answers: Annotated[
        Literal["cut", "skip"], typer.Option(help="Keep the beginning of a longer answer, or leave it out; counted.")
    ] = "cut",
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Longest time for the features of one item.")
    ] = 10.0,
    modality: Annotated[
        list[str] | None,
        typer.Option(help="A modality of your own, as package.module:ATTRIBUTE; repeat the option for more."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Layout of the files: a name, or package.module:ATTRIBUTE; default: by suffix.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODALITY.KEY=VALUE", help="A limit; repeat the option for more."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Largest number of records to read.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the split.")] = 0,
) -> None:
    """Featurise, tokenize and split; what cannot be used is counted and listed in rejects.jsonl."""
    from megabiomed.samples.multimodal.building import BuildSettings, build_dataset

    limits = _limits({"max_atoms": max_atoms, "max_residues": max_residues, "salts": salts}, set_ or [])
    settings = BuildSettings(template, limits, tuple(modality or ()), layout, max_answer_tokens, long_answers, seconds)
    how = None if split == "none" else split
    for line in build_dataset(files, output, tokenizer, how, settings, limit, seed):
        typer.echo(line)


@multimodal_app.command(epilog="Example: megabiomed multimodal inspect qa/train")
def inspect(split: Annotated[Path, typer.Argument(help="Folder of one split.")]) -> None:
    """Counts of a split, the first records that were left out, and its first question."""
    from megabiomed.samples.multimodal.store import QaStore

    store = QaStore(split)
    for key, value in store.manifest.items():
        typer.echo(f"{key}: {value}")
    for reject in store.rejects()[:3]:
        typer.echo(f"left out: {reject.ident}: {reject.reason}: {reject.detail}")
    if len(store):
        ident, question, answer = store.text(0)
        typer.echo(f"first: {ident}: {question} -> {answer}")


def _limits(flags: dict[str, object], given: list[str]) -> dict[str, dict[str, object]]:
    """Limits by modality: of flags, which belong to the shipped modality that has such a key, and of `--set`."""
    from megabiomed.config.modalities import MODALITIES
    from megabiomed.config.yaml_text import read_yaml
    from megabiomed.encoders.modality import modality_of
    from megabiomed.ground.errors import ConfigError

    found: dict[str, dict[str, object]] = {}
    for name in MODALITIES.names():
        keys = modality_of(name).limits.model_fields
        found[name] = {key: value for key, value in flags.items() if key in keys}
    for text in given:
        name, dot, rest = text.partition(".")
        key, equals, value = rest.partition("=")
        if not (dot and equals and key):
            raise ConfigError("--set cannot be read", got=text, expected="MODALITY.KEY=VALUE")
        found.setdefault(name, {})[key] = read_yaml(value, text)
    return found
