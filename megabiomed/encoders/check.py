"""`megabiomed encoder check`: a file of encoder weights is read and compared with its authors' program on this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from megabiomed.config.modalities import MODALITIES
from megabiomed.encoders.encoder import Encoder, FileCheck, Shapes, shipped_encoders
from megabiomed.encoders.families import family_of
from megabiomed.encoders.modality import modality_of
from megabiomed.encoders.weights import read_state, weight_files
from megabiomed.ground.errors import CheckpointError, ConfigError

TOLERANCE = 1e-5


def check_encoder(path: Path, given: Mapping[str, int], kind: str | None = None) -> list[str]:
    """Read weights of any registered encoder and compare; returns lines for the terminal.

    Args:
        given: keys of the encoder that the file does not say.
        kind: a reference to an encoder of one's own, which alone is tried.

    Raises:
        CheckpointError: weights of no such encoder, or another result than the authors' program.
    """
    found = {name: tuple(value.shape) for file in weight_files(path) for name, value in read_state(file).items()}
    tried = []
    for at, encoder in _candidates(kind):
        tried.append(at)
        verdict = encoder.check(path, found, given)
        if verdict is None:
            continue
        # Not `>`: a NaN must fail too.
        if not verdict.difference <= TOLERANCE:
            raise CheckpointError(
                f"{path} gives another result than {verdict.against}", got=f"{verdict.difference:.1e}",
                expected=TOLERANCE, do="do not train with it",
            )  # fmt: skip
        return _lines(at, verdict)
    raise CheckpointError(
        f"{path} holds weights of no known encoder",
        got=family_of(found) or ", ".join(list(found)[:4]) or "no tensors",
        expected=f"one of {', '.join(tried)}",
    )


def _candidates(kind: str | None) -> list[tuple[str, Encoder]]:
    if kind is None:
        return [(f"align.{name}", encoder) for name, _, encoder in shipped_encoders()]
    found = modality_of(MODALITIES.names()[0]).encoder(kind)  # a reference is the same in every modality
    if not isinstance(found, Encoder):
        raise ConfigError(f"{kind} is not an encoder", got=repr(found), expected=Encoder.__module__)
    return [(f"encoder {kind}", found)]


def _lines(at: str, verdict: FileCheck) -> list[str]:
    shown = ", ".join(f"{key}: {value}" for key, value in verdict.settings.items())
    return [
        f"{at}: {{{shown}}}", f"parameters: {verdict.parameters:,}", f"sha256: {verdict.sha256}",
        f"difference to {verdict.against}: {verdict.difference:.1e} of the largest value (at most {TOLERANCE:g})",
    ]  # fmt: skip


def layers(names: Shapes, prefix: str) -> int:
    """Number of layers by the names `prefix.0.`, `prefix.1.` and so on of their tensors."""
    return 1 + max((int(m[1]) for name in names if (m := re.match(rf"{prefix}\.(\d+)\.", name))), default=-1)


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference over the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def count(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
