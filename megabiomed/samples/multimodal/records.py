"""Questions on items of any modality, and the layouts of files that they are read from."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path

from megabiomed.ground.errors import DataError
from megabiomed.ground.registry import Registry


@dataclass(frozen=True)
class MultimodalQuestion:
    """One question.

    Attributes:
        ident: names it in messages.
        items: texts (SMILES, sequences, ...) by the name of their modality, each in the order of its placeholders.
    """

    ident: str
    question: str
    answer: str
    items: Mapping[str, list[str]] = field(default_factory=dict)

    def of(self, modality: str) -> list[str]:
        """Its items of one modality."""
        return list(self.items.get(modality, ()))


@dataclass(frozen=True)
class RecordLayout:
    """A layout of files of questions.

    Attributes:
        read: records of a file; raises DataError for one of another layout.
        suffixes: of the files that are read in this layout unless another one is named; `.gz` after them is fine.
    """

    read: Callable[[Path], Iterator[MultimodalQuestion]]
    suffixes: tuple[str, ...] = ()


LAYOUTS: Registry[RecordLayout] = Registry(
    "layout of questions",
    {
        "openbiomed": "megabiomed.samples.multimodal.records_json:OPENBIOMED",
        "chebi20": "megabiomed.samples.multimodal.records_json:CHEBI20",
        "swissprot": "megabiomed.samples.multimodal.records_raw:SWISSPROT",
        "csv": "megabiomed.samples.multimodal.records_raw:CSV",
        "sdf": "megabiomed.samples.multimodal.records_raw:SDF",
    },
    lambda held: isinstance(held, RecordLayout),
    "a megabiomed.samples.multimodal.records.RecordLayout",
)


def read_records(path: Path, layout: str | None = None) -> Iterator[MultimodalQuestion]:
    """Records of one file.

    Args:
        layout: registered name or reference; None takes the one of the file's suffix.

    Raises:
        DataError: the file is missing or has another layout.
        ConfigError: there is no such layout.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist", do="give .json, .jsonl, ChEBI-20's .txt, Swiss-Prot's .dat, .sdf or .csv"
        )
    return (LAYOUTS.find(layout) if layout is not None else _by_suffix(path)).read(path)


def _by_suffix(path: Path) -> RecordLayout:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    found = [layout for name in LAYOUTS.names() if suffix in (layout := LAYOUTS.find(name)).suffixes]
    return found[0] if found else LAYOUTS.find(LAYOUTS.names()[0])


def opened(path: Path) -> TextIOWrapper:
    """A text file, unpacked if its name ends in .gz."""
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")
