"""GIN weights from the files of pretrain-gnns and GraphMVP, and their comparison with the authors' program."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from megabiomed.encoders.check import count, layers, relative
from megabiomed.encoders.encoder import FileCheck, Shapes
from megabiomed.encoders.families import GIN
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.gin.featurise import featurise
from megabiomed.encoders.gin.model import Gin, MoleculeBatch
from megabiomed.encoders.weights import fill, read_state, require_family
from megabiomed.ground.files import sha256_file

_SMILES = ("CC(=O)Oc1ccccc1C(=O)O", "[Na+]", "F/C=C/F", "N[C@@H](C)C(=O)O", "c1ccccc1C(=O)[O-].[Na+]", "*CCO", "C#N")


def load_gin(model: nn.Module, path: Path) -> str:
    """Fill a GIN from a pretrain-gnns or GraphMVP state dict; returns the SHA-256 of the file."""
    state = {name.removeprefix("gnn."): value for name, value in read_state(path).items()}
    require_family(state, GIN, path)
    # Heads of the supervised pretraining; no embedding depends on them.
    unused = [name for name in state if name.startswith(("graph_pred_linear", "pool"))]
    fill(model, {name: value for name, value in state.items() if name not in unused}, path)
    return sha256_file(path)


def check_gin(path: Path, shapes: Shapes) -> FileCheck | None:
    """Compare with the authors' convolution on torch-geometric; None for a file without atoms' embeddings."""
    from megabiomed.encoders.gin.reference import reference_gin

    names = {name.removeprefix("gnn."): shape for name, shape in shapes.items()}
    if "x_embedding1.weight" not in names:
        return None
    settings = {"num_layers": layers(names, "gnns"), "hidden_size": names["x_embedding1.weight"][1]}
    model = Gin(GinConfig.model_validate(settings))
    sha256 = load_gin(model, path)
    batch = MoleculeBatch.of([featurise(smiles) for smiles in _SMILES])
    with torch.no_grad():
        difference = relative(model(batch), reference_gin(model, batch))
    return FileCheck(settings, count(model), sha256, difference, "GINConv on torch-geometric")
