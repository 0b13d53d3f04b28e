"""`megabiomed encoder check`: a file of encoder weights is read and compared with its authors' program on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megabiomed.config.align import Esm2Config, GinConfig
from megabiomed.encoders.esm2.alphabet import MASK, encode
from megabiomed.encoders.esm2.model import Esm2, ProteinBatch
from megabiomed.encoders.gin.featurise import featurise
from megabiomed.encoders.gin.model import Gin, MoleculeBatch
from megabiomed.encoders.weights import esm2_key, load_esm2, load_gin, read_state
from megabiomed.ground.errors import CheckpointError
from megabiomed.ground.files import read_json

TOLERANCE = 1e-5
_SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "[Na+]", "F/C=C/F", "N[C@@H](C)C(=O)O", "c1ccccc1C(=O)[O-].[Na+]", "*CCO", "C#N")
_PROTEINS = ("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQAPILSRVGDGTQDNLSGAEKAVQVKVKALPDAQ", "M", "ACDEFGHIKLMNPQRSTVWYBUZOX")


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Attributes:
        settings: keys of `align.molecule` or `align.protein` that fit the file.
        difference: largest difference of the embeddings to the authors' program over their largest value.
        against: that program.
    """

    modality: str
    settings: dict[str, int]
    parameters: int
    sha256: str
    difference: float
    against: str

    def lines(self) -> list[str]:
        """For the terminal."""
        shown = ", ".join(f"{key}: {value}" for key, value in self.settings.items())
        return [
            f"align.{self.modality}: {{{shown}}}", f"parameters: {self.parameters:,}", f"sha256: {self.sha256}",
            f"difference to {self.against}: {self.difference:.1e} of the largest value (at most {TOLERANCE:g})",
        ]  # fmt: skip


def check_encoder(path: Path, heads: int | None = None) -> Verdict:
    """Read weights of a GIN or an ESM-2, whichever they are, and compare.

    Args:
        heads: attention heads of an ESM-2 whose file does not say them.

    Raises:
        CheckpointError: neither encoder, or another result than the authors' program.
    """
    names = _shapes(path)
    verdict = _gin(path, names) if "x_embedding1.weight" in names else _esm2(path, names, heads)
    if not verdict.difference <= TOLERANCE:
        raise CheckpointError(
            f"{path} gives another result than {verdict.against}", got=f"{verdict.difference:.1e}", expected=TOLERANCE,
            do="do not train with it",
        )  # fmt: skip
    return verdict


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        for name, value in read_state(file).items():
            key = esm2_key(name.removeprefix("gnn."))
            found |= {key: tuple(value.shape)} if key is not None else {}
    return found


def _layers(names: dict[str, tuple[int, ...]], prefix: str) -> int:
    return 1 + max((int(m[1]) for name in names if (m := re.match(rf"{prefix}\.(\d+)\.", name))), default=-1)


def _gin(path: Path, names: dict[str, tuple[int, ...]]) -> Verdict:
    from megabiomed.encoders.gin.reference import reference_gin

    settings = {"num_layers": _layers(names, "gnns"), "hidden_size": names["x_embedding1.weight"][1]}
    model = Gin(GinConfig(**settings))
    sha256 = load_gin(model, path)
    batch = MoleculeBatch.of([featurise(smiles) for smiles in _SMILES])
    with torch.no_grad():
        difference = _relative(model(batch), reference_gin(model, batch))
    return Verdict("molecule", settings, _count(model), sha256, difference, "GINConv on torch-geometric")


def _esm2(path: Path, names: dict[str, tuple[int, ...]], heads: int | None) -> Verdict:
    from megabiomed.encoders.esm2.reference import reference_esm2, reference_tokens

    if "embed_tokens.weight" not in names:
        raise CheckpointError(
            f"{path} holds neither a GIN nor an ESM-2", got=", ".join(list(names)[:4]) or "no tensors"
        )
    settings = {"num_layers": _layers(names, "layers"), "hidden_size": names["embed_tokens.weight"][1]}
    settings["num_attention_heads"] = heads or _heads(path, settings["hidden_size"])
    model = Esm2(Esm2Config(**settings)).eval()
    sha256 = load_esm2(model, path)
    proteins = [encode(sequence) for sequence in _PROTEINS]
    wrong = [s for s, p in zip(_PROTEINS, proteins) if p.tokens.tolist() != reference_tokens(s)]
    assert not wrong, wrong
    proteins[0].tokens[5:8] = MASK
    with torch.no_grad():
        difference = _relative(model(ProteinBatch.of(proteins)), reference_esm2(model, proteins))
    return Verdict("protein", settings, _count(model), sha256, difference, "fair-esm")


def _heads(path: Path, width: int) -> int:
    """What config.json says; of an official file what fair-esm's models of this width have: 20, or 40 from 2,560 on."""
    if path.is_dir():
        return int(read_json(path / "config.json")["num_attention_heads"])
    return 40 if width >= 2560 else 20


def _relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def _count(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
