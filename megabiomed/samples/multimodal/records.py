"""Questions on items of any modality, and the layouts of files that they are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megabiomed.ground.errors import DataError
from megabiomed.ground.registry import Registry
from megabiomed.samples.fields import require_valid, text_of
from megabiomed.samples.rejects import Reject, Unusable


@dataclass(frozen=True)
class MultimodalQuestion:
    """One question.

    Attributes:
        ident: names it in messages.
        answer: may be empty where the question is only to be asked; no sample is made of such a record.
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
        read: records of a file, with a `Reject` for each entry that is none; raises DataError for a file of another
            layout.
        suffixes: of the files that are read in this layout unless another one is named; `.gz` after them is fine.
    """

    read: Callable[[Path], Iterator[MultimodalQuestion | Reject]]
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


def read_records(
    path: Path, layout: str | None = None, rejects: list[Reject] | None = None
) -> Iterator[MultimodalQuestion]:  # fmt: skip
    """Records of one file.

    Args:
        layout: registered name or reference; None takes the one of the file's suffix.
        rejects: collects entries that are no record. Without it the first one raises `DataError`.

    Raises:
        DataError: the file is missing or has another layout.
        ConfigError: there is no such layout.
    """
    if not path.is_file():
        raise DataError(
            f"{path} does not exist", do="give .json, .jsonl, ChEBI-20's .txt, Swiss-Prot's .dat, .sdf or .csv"
        )
    return _kept((LAYOUTS.find(layout) if layout is not None else _by_suffix(path)).read(path), rejects)


def _kept(entries: Iterator[MultimodalQuestion | Reject], rejects: list[Reject] | None) -> Iterator[MultimodalQuestion]:
    for entry in map(_checked, entries):
        if isinstance(entry, MultimodalQuestion):
            yield entry
        elif rejects is None:
            raise DataError(f"{entry.ident} cannot be used", got=f"{entry.reason}: {entry.detail}", do="mend the file")
        else:
            rejects.append(entry)


def _checked(entry: MultimodalQuestion | Reject) -> MultimodalQuestion | Reject:
    """A record whose texts a tokenizer takes, whatever layout it comes from."""
    if isinstance(entry, MultimodalQuestion):
        items = (text for texts in entry.items.values() for text in texts)
        try:
            text_of(entry.question, "question")
            require_valid((entry.ident, entry.question, entry.answer, *items))
        except Unusable as error:
            return error.reject("", entry.ident)
    return entry


def _by_suffix(path: Path) -> RecordLayout:
    suffix = Path(path.name.removesuffix(".gz")).suffix
    found = [layout for name in LAYOUTS.names() if suffix in (layout := LAYOUTS.find(name)).suffixes]
    # A suffix that no layout claims is read as OpenBioMed's JSON, which looks at the content.
    return found[0] if found else LAYOUTS.find(LAYOUTS.names()[0])
