"""What a modality is: how one item gets from its text to features, to disk, and to a batch for its encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from megabiomed.config.base import Section
from megabiomed.config.modalities import MODALITIES, EncoderConfig, ModalityKind
from megabiomed.encoders.encoder import Batch
from megabiomed.ground.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Features(Protocol):
    """What the encoders of a modality see of one item.

    Attributes:
        rows: rows that the encoders make of it.
    """

    @property
    def rows(self) -> int: ...


F = TypeVar("F", bound=Features)
L = TypeVar("L", bound=Section)
Row = Mapping[str, "NDArray[Any]"]
"""One row of a modality's table: a flat array per column."""


class ItemError(DataError):
    """A text that gives no features.

    Attributes:
        reason: one or two words, by which such records are counted.
    """

    modality = "item"

    def __init__(self, reason: str, text: str, detail: str) -> None:
        self.reason = reason
        super().__init__(f"{self.modality} refused ({reason})", got=f"{text}: {detail}")

    # These errors cross processes; pickle would call `__init__` with the message alone.
    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.reason, str(self.got), "")


class Modality(ModalityKind, ABC, Generic[F, L]):
    """A modality. Name an instance in `align.modalities.<name>.kind` and with `megabiomed multimodal build --modality`."""

    placeholder: str
    """Stands in prompts where an item's embeddings go: `<moleculeHere>`."""
    table: str
    """Name of its table in datasets: `molecules`."""
    columns: ClassVar[Mapping[str, str]]
    """Columns of that table and their numpy types: `{"atoms": "uint8"}`."""
    limits: type[L]
    """Keys of `featurise` with their defaults. An encoder's keys of the same names count where no dataset says them."""
    quick_characters: int | None = None
    """Longest text that `featurise` surely is done with at once. Longer ones run in a process of their own under the time
    limit of `megabiomed multimodal build`. None: every text is."""
    version: int = 1
    """Of the features; datasets made with another version are refused."""

    @abstractmethod
    def featurise(self, text: str, limits: L) -> F:
        """Features of an item.

        Raises:
            ItemError: the text is no such item, or is refused by a limit.
        """

    @abstractmethod
    def to_row(self, features: F) -> Row:
        """Features as a row of the table."""

    @abstractmethod
    def from_row(self, row: Row) -> F:
        """Inverse of `to_row`."""

    @abstractmethod
    def collate(self, items: Sequence[F]) -> Batch:
        """A batch of items; of none as well."""

    @abstractmethod
    def resized(self, features: F, rows: int) -> F:
        """The features made to have so many rows, to stand where another item was (validation with wrong items)."""

    def changes(self, text: str, features: F) -> Iterable[str]:
        """What `featurise` had to change of the text; counted in the dataset's manifest."""
        return ()

    def read(self, argument: str) -> str:
        """The text that an argument of `megabiomed chat` stands for, which may be a file."""
        return argument

    def clusters(self, texts: set[str]) -> dict[str, str]:
        """Key of what must stay on one side of a split, for each text."""
        return {text: f"{self.name} {text}" for text in texts}

    def fingerprint(self, text: str) -> Any:
        """What `similarity` compares; of any item that was read before."""
        return {text[i : i + 3] for i in range(max(1, len(text) - 2))}

    def similarity(self, a: Any, b: Any) -> float:
        """From 0 to 1, of two fingerprints; finds the nearest item of the training data."""
        return len(a & b) / max(1, len(a | b))

    def limits_of(self, encoder: EncoderConfig) -> L:
        """The limits that an encoder's keys say."""
        said = {key: getattr(encoder, key) for key in self.limits.model_fields if hasattr(encoder, key)}
        return self.limits.model_validate(said)


def modality_of(kind: str) -> Modality[Any, Any]:
    """A modality by registered name or reference.

    Raises:
        ConfigError: there is none, or what is registered is only half a modality.
    """
    found = MODALITIES.find(kind)
    if not isinstance(found, Modality):
        raise ConfigError(f"{kind} is not a modality", got=repr(found), expected=Modality.__module__)
    return found
