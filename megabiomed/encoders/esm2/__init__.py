"""Proteins as sequences of residues, and ESM-2. Everything heavy is imported when it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from pydantic import PositiveInt

from megabiomed.config.base import Section
from megabiomed.config.modalities import encoders_of
from megabiomed.encoders.encoder import Encoder, FileCheck, Shapes
from megabiomed.encoders.esm2.config import Esm2Config
from megabiomed.encoders.modality import Modality, Row

if TYPE_CHECKING:
    from torch import Tensor, nn

    from megabiomed.encoders.esm2.alphabet import Protein
    from megabiomed.encoders.esm2.model import Esm2, ProteinBatch

_MATRICES = {
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
    "fc1": "fc1",
    "fc2": "fc2",
}


class ProteinLimits(Section):
    """What becomes a protein."""

    max_residues: PositiveInt = 1022
    """Longer proteins are cut."""


class Proteins(Modality["Protein", ProteinLimits]):
    """Sequences as tokens."""

    name = "protein"
    placeholder = "<proteinHere>"
    table = "proteins"
    columns: ClassVar[Mapping[str, str]] = {"tokens": "uint8"}
    limits = ProteinLimits
    encoders = encoders_of("protein", {"esm2": "megabiomed.encoders.esm2:ESM2"})

    def featurise(self, text: str, limits: ProteinLimits) -> Protein:
        """See the base class."""
        from megabiomed.encoders.esm2.alphabet import encode

        return encode(text, limits.max_residues)

    def to_row(self, features: Protein) -> Row:
        """See the base class."""
        return {"tokens": features.tokens}

    def from_row(self, row: Row) -> Protein:
        """See the base class."""
        from megabiomed.encoders.esm2.alphabet import Protein

        return Protein(row["tokens"])

    def collate(self, items: Sequence[Protein]) -> ProteinBatch:
        """See the base class."""
        from megabiomed.encoders.esm2.model import ProteinBatch

        return ProteinBatch.of(items)

    def resized(self, features: Protein, rows: int) -> Protein:
        """See the base class: residues repeated or cut off."""
        return features.resized(rows)

    def changes(self, text: str, features: Protein) -> Iterator[str]:
        """See the base class."""
        if features.truncated:
            yield "proteins_truncated"
        if features.changed:
            yield "proteins_with_replaced_letters"

    def read(self, argument: str) -> str:
        """A sequence, or the one of a FASTA file."""
        from megabiomed.encoders.esm2.alphabet import read_protein

        return read_protein(argument)

    def clusters(self, texts: set[str]) -> dict[str, str]:
        """Sequences that share k-mers."""
        from megabiomed.encoders.esm2.similarity import sequence_clusters

        longest_first = sorted(texts, key=lambda text: (-len(text), text))
        return {text: f"protein {number}" for text, number in sequence_clusters(longest_first).items()}


class Esm2Encoder(Encoder[Esm2Config]):
    """The trunk of ESM-2."""

    config = Esm2Config
    reads_weights = True
    takes_lora = True

    def build(self, config: Esm2Config) -> nn.Module:
        """See the base class."""
        from megabiomed.encoders.esm2.model import Esm2

        return Esm2(config)

    def flops(self, config: Esm2Config, rows: int) -> float:
        """Matrices linear in the tokens, attention quadratic."""
        width, layers = config.hidden_size, config.num_layers
        # A layer has 12 w^2 weights (4 in attention, 8 in the feed-forward part); scores and mixing cost 4 w n^2.
        return 2.0 * layers * 12 * width**2 * rows + 4.0 * layers * width * rows**2

    def load(self, module: nn.Module, config: Esm2Config, path: Path) -> None:
        """An official fair-esm file or a Hugging Face EsmModel folder."""
        from megabiomed.encoders.esm2.weights import load_esm2

        load_esm2(cast("Esm2", module), path)

    def lora_matrices(self, config: Esm2Config) -> Collection[str]:
        """Those of `lora.targets` in every layer."""
        return {_MATRICES[name] for name in config.lora.targets}

    def fsdp_layers(self, module: nn.Module) -> Sequence[nn.Module]:
        """The transformer layers."""
        return list(cast("Esm2", module).layers)

    def constants(self, module: nn.Module) -> dict[str, Tensor]:
        """The rotary frequencies, which a file of weights may bring along."""
        return {"inv_freq": cast("Esm2", module).inv_freq}

    def set_constants(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """See the base class."""
        cast("Esm2", module).inv_freq = values["inv_freq"]

    def function_text(self, config: Esm2Config) -> str:
        """The number of heads, which no tensor shows."""
        return str(config.num_attention_heads)

    def check(self, path: Path, shapes: Shapes, given: Mapping[str, int]) -> FileCheck | None:
        """See the base class."""
        from megabiomed.encoders.esm2.weights import check_esm2

        return check_esm2(path, shapes, given)


ESM2 = Esm2Encoder()
PROTEIN = Proteins()
