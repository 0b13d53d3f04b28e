"""`megabiomed encoder`: weights of molecule and protein encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

encoder_app = typer.Typer(no_args_is_help=True, help="Weights of molecule and protein encoders.")


@encoder_app.callback()
def _root() -> None:
    pass


@encoder_app.command(epilog="Example: megabiomed encoder check esm2_t33_650M_UR50D.pt")
def check(
    path: Annotated[
        Path, typer.Argument(help="GIN .pth, fair-esm .pt, safetensors, or a Hugging Face EsmModel folder.")
    ],
    heads: Annotated[int | None, typer.Option(min=1, help="Attention heads, if an ESM-2 has unusual ones.")] = None,
) -> None:
    """Read encoder weights, say which settings fit, and compare with fair-esm or torch-geometric on fixed inputs."""
    from megabiomed.encoders.check import check_encoder

    for line in check_encoder(path, heads).lines():
        typer.echo(line)
