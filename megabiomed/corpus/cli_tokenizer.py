"""`megabiomed tokenizer ...`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megabiomed.ground.errors import DataError

if TYPE_CHECKING:
    from megabiomed.tokenizer.interface import Tokenizer

tokenizer_app = typer.Typer(
    no_args_is_help=True, help="Train SentencePiece tokenizers; extend, check and compare these and tokenizer.json."
)
Texts = Annotated[
    list[Path],
    typer.Argument(help="Texts: UTF-8 files, or papers (.jsonl, .json, .xml, .tar, .parquet, .arrow; .gz, .zst)."),
]


@tokenizer_app.command(
    epilog="Example: megabiomed tokenizer train papers/*.txt --output tokenizer.model --vocab-size 32000"
)
def train(
    texts: Texts,
    output: Annotated[Path, typer.Option(help="File to write.")],
    vocab_size: Annotated[int, typer.Option(help="Number of pieces.")] = 32000,
) -> None:
    """Train a SentencePiece BPE with byte fallback in Llama-2's layout."""
    from megabiomed.tokenizer.sentencepiece_bpe import train_tokenizer

    tokenizer = train_tokenizer(read_texts(texts), output, vocab_size)
    typer.echo(f"{tokenizer.vocab_size} pieces: {output}")


@tokenizer_app.command(
    epilog="Example: megabiomed tokenizer extend Llama-2-7b/tokenizer.model s2orc/*.gz --output bio.model --pieces 2000"
)
def extend(
    base: Annotated[
        Path, typer.Argument(help="tokenizer.model or tokenizer.json to extend; its pieces keep their ids.")
    ],
    texts: Texts,
    output: Annotated[Path, typer.Option(help="File to write; for a tokenizer.json, a folder.")],
    pieces: Annotated[int, typer.Option(min=1, help="New pieces.")] = 1000,
) -> None:
    """Add the pieces that shorten these texts most to an existing tokenizer.

    Then `pretrain model.init_from=FOLDER model.vocab_size=N`, with a corpus built with the new tokenizer, starts the new rows
    of embedding and output head from the mean of their old pieces.
    """
    from megabiomed.tokenizer.extend import extend_tokenizer
    from megabiomed.tokenizer.extend_json import extend_json
    from megabiomed.tokenizer.files import open_tokenizer
    from megabiomed.tokenizer.hugging_face import HuggingFaceTokenizer

    opened = open_tokenizer(base)
    tokenizer: Tokenizer
    if isinstance(opened, HuggingFaceTokenizer):
        tokenizer, new = extend_json(opened, read_texts(texts), output, pieces)
    else:
        tokenizer, new = extend_tokenizer(opened.path, read_texts(texts), output, pieces)
    if len(new) < pieces:
        typer.echo(f"the texts hold only {len(new)} pieces that occur twice", err=True)
    typer.echo(f"first new pieces: {' '.join(new[:12])}")
    typer.echo(f"{tokenizer.vocab_size} pieces, {len(new)} of them new: {tokenizer.path}")
    rows = f"model.vocab_size={tokenizer.vocab_size}, or the model's own where it has more rows"
    typer.echo(f"next: megabiomed corpus build ... --tokenizer {tokenizer.path}; pretrain ... {rows}")


@tokenizer_app.command(epilog="Example: megabiomed tokenizer check tokenizer.model sample.txt")
def check(
    model: Annotated[Path, typer.Argument(help="tokenizer.model or tokenizer.json.")],
    texts: Annotated[list[Path], typer.Argument(help="UTF-8 text files.")],
) -> None:
    """Fertility of a tokenizer on text: tokens per word, bytes per token, and whether decoding gives the text back."""
    from megabiomed.tokenizer.fertility import fertility
    from megabiomed.tokenizer.files import open_tokenizer

    tokenizer = open_tokenizer(model)
    for path in texts:
        figures = fertility(tokenizer, [_text(path)])
        typer.echo(
            f"{path}: {figures.tokens:,} tokens, {figures.tokens_per_word:.3f} tokens/word, "
            f"{figures.bytes_per_token:.3f} bytes/token, {figures.round_trip}"
        )


@tokenizer_app.command(
    epilog="Example: megabiomed tokenizer report s2orc/*.gz --model Llama-2-7b/tokenizer.model --model bio.model"
)
def report(
    texts: Texts,
    model: Annotated[list[Path], typer.Option(help="tokenizer.model or tokenizer.json; repeat the option to compare.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare tokenizers on a sample: tokens per word, characters per token, words in one piece, words cut most."""
    from megabiomed.tokenizer.fertility import fertility
    from megabiomed.tokenizer.files import open_tokenizer

    # Read once: all tokenizers are measured on the same sample.
    sample = list(read_texts(texts))
    compared = {str(path): fertility(open_tokenizer(path), sample) for path in model}
    if as_json:
        rows = {name: asdict(figures) for name, figures in compared.items()}
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    first = next(iter(compared.values()))
    for name, figures in compared.items():
        typer.echo(
            f"{name}: {figures.tokens:,} tokens ({figures.tokens / max(1, first.tokens):.1%} of the first), "
            f"{figures.tokens_per_word:.3f} tokens/word, {figures.characters_per_token:.3f} characters/token, "
            f"{figures.whole:.1%} of the words whole, {figures.round_trip}"
        )
        typer.echo("  cut most: " + ", ".join(f"{word} ({cost} tokens, {n} x)" for word, cost, n in figures.worst))


def read_texts(paths: list[Path]) -> Iterator[str]:
    """Plain files unchanged; papers cleaned, whether or not they have a medical id."""
    from collections import Counter

    from megabiomed.corpus.clean import CleanRules, clean
    from megabiomed.corpus.readers import read_papers
    from megabiomed.corpus.records import Rejects
    from megabiomed.corpus.tables import TABLES, with_saved

    # Cleaned as in a build, because that is what the tokenizer will cut; papers of any kind will do.
    rules = CleanRules(require_medical_id=False, min_words=1)
    for path in with_saved(paths):
        # All suffixes, because .gz or .zst may follow.
        if {".jsonl", ".json", ".xml", ".nxml", ".tar", *TABLES}.isdisjoint(path.suffixes):
            yield _text(path)
            continue
        for paper in read_papers(path, rejects=Rejects()):
            if text := clean(paper, rules, Counter()):
                yield text


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text", got=error, do="check the file") from None
