"""Molecules as graphs of atoms, and their encoders. Everything heavy is imported when it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveInt

from megabiomed.config.base import Section
from megabiomed.config.modalities import encoders_of
from megabiomed.encoders.encoder import Encoder, FileCheck, Shapes
from megabiomed.encoders.gin.config import GinConfig
from megabiomed.encoders.modality import Modality, Row

if TYPE_CHECKING:
    from torch import nn

    from megabiomed.encoders.gin.featurise import Molecule
    from megabiomed.encoders.gin.model import MoleculeBatch


class MoleculeLimits(Section):
    """What becomes a molecule."""

    max_atoms: PositiveInt = 256
    """Larger molecules are skipped."""
    salts: Literal["keep", "largest", "refuse"] = "keep"
    """Of several fragments: keep all, keep the largest, or refuse."""


class Molecules(Modality["Molecule", MoleculeLimits]):
    """SMILES as graphs."""

    name = "molecule"
    placeholder = "<moleculeHere>"
    table = "molecules"
    columns: ClassVar[Mapping[str, str]] = {"atoms": "uint8", "edges": "uint16", "bonds": "uint8"}
    limits = MoleculeLimits
    quick_characters = 1000
    encoders = encoders_of(
        "molecule", {"gin": "megabiomed.encoders.gin:GIN", "gat": "megabiomed.encoders.gin:GAT"}
    )  # fmt: skip

    def featurise(self, text: str, limits: MoleculeLimits) -> Molecule:
        """See the base class."""
        from megabiomed.encoders.gin.featurise import featurise

        return featurise(text, limits.max_atoms, limits.salts)

    def to_row(self, features: Molecule) -> Row:
        """See the base class."""
        return {"atoms": features.atoms.ravel(), "edges": features.edges.ravel(), "bonds": features.bonds.ravel()}

    def from_row(self, row: Row) -> Molecule:
        """See the base class."""
        from megabiomed.encoders.gin.featurise import Molecule

        return Molecule(row["atoms"].reshape(-1, 2), row["edges"].reshape(2, -1), row["bonds"].reshape(-1, 2))

    def collate(self, items: Sequence[Molecule]) -> MoleculeBatch:
        """See the base class."""
        from megabiomed.encoders.gin.model import MoleculeBatch

        return MoleculeBatch.of(items)

    def resized(self, features: Molecule, rows: int) -> Molecule:
        """See the base class: atoms repeated or left out, with the bonds that are left."""
        return features.resized(rows)

    def changes(self, text: str, features: Molecule) -> Iterator[str]:
        """See the base class."""
        from megabiomed.encoders.gin.featurise import MISC_ATOM

        if "." in text:
            yield "molecules_with_several_fragments"
        if (features.atoms[:, 0] == MISC_ATOM).any():
            yield "molecules_with_unknown_elements"

    def clusters(self, texts: set[str]) -> dict[str, str]:
        """Scaffolds; a molecule too large for one is a cluster of its own."""
        from megabiomed.encoders.gin.similarity import scaffold

        return {text: f"scaffold {scaffold(text)}" for text in texts}

    def fingerprint(self, text: str) -> Any:
        """Morgan fingerprint."""
        from megabiomed.encoders.gin.similarity import morgan

        return morgan(text)

    def similarity(self, a: Any, b: Any) -> float:
        """Tanimoto similarity."""
        from rdkit.DataStructs import TanimotoSimilarity

        return float(TanimotoSimilarity(a, b))


class GinEncoder(Encoder[GinConfig]):
    """pretrain-gnns' graph isomorphism network."""

    config = GinConfig
    reads_weights = True
    takes_lora = True

    def build(self, config: GinConfig) -> nn.Module:
        """See the base class."""
        from megabiomed.encoders.gin.model import Gin

        return Gin(config)

    def flops(self, config: GinConfig, rows: int) -> float:
        """Both matrices of every convolution; bonds cost next to nothing."""
        return 2.0 * config.num_layers * 4 * config.hidden_size**2 * rows

    def load(self, module: nn.Module, config: GinConfig, path: Path) -> None:
        """A pretrain-gnns or GraphMVP state dict."""
        from megabiomed.encoders.gin.weights import load_gin

        load_gin(module, path)

    def lora_matrices(self, config: GinConfig) -> Collection[str]:
        """Both matrices of every convolution."""
        # Places of the linear layers in `GinConv.mlp`.
        return {"0", "2"}

    def check(self, path: Path, shapes: Shapes, given: Mapping[str, int]) -> FileCheck | None:
        """See the base class."""
        from megabiomed.encoders.gin.weights import check_gin

        return check_gin(path, shapes)


class GatEncoder(Encoder[GinConfig]):
    """torch-geometric's graph attention network."""

    config = GinConfig

    def build(self, config: GinConfig) -> nn.Module:
        """See the base class."""
        from megabiomed.encoders.gin.gat import Gat

        return Gat(config)

    def flops(self, config: GinConfig, rows: int) -> float:
        """Taken to be that of GIN, which is in the same order."""
        return GIN.flops(config, rows)


GIN, GAT = GinEncoder(), GatEncoder()
MOLECULE = Molecules()
