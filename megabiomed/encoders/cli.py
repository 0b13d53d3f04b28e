"""`megabiomed encoder`: weights of encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

encoder_app = typer.Typer(no_args_is_help=True, help="Weights of encoders.")


@encoder_app.callback()
def _root() -> None:
    pass


@encoder_app.command(epilog="Example: megabiomed encoder check esm2_t33_650M_UR50D.pt")
def check(
    path: Annotated[
        Path, typer.Argument(help="GIN .pth, fair-esm .pt, safetensors, or a Hugging Face EsmModel folder.")
    ],
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, if an ESM-2 has unusual ones.")] = None,
    kind: Annotated[str | None, typer.Option(help="An encoder of your own, as package.module:ATTRIBUTE.")] = None,
) -> None:
    """Read encoder weights, print the settings that fit, and compare with fair-esm or torch-geometric on fixed inputs."""
    from megabiomed.encoders.check import check_encoder

    for line in check_encoder(path, {} if heads is None else {"num_attention_heads": heads}, kind):
        typer.echo(line)
