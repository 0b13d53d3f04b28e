"""Features of the items of a dataset: made once for each text, with the limits first and a time limit for each."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

from megabiomed.config.base import Section
from megabiomed.encoders.modality import Features, ItemError, Modality, modality_of
from megabiomed.processes.time_limit import TimeLimited
from megabiomed.samples.multimodal.records import MultimodalQuestion


class Refusal(NamedTuple):
    """Why a text gives no features; crosses processes, unlike an exception with its own constructor."""

    reason: str
    message: str


class Items:
    """Features by modality and text, kept for all splits.

    Args:
        kinds: the modalities by registered name or reference.
        limits: theirs, by the name of the modality.
        seconds: that one item may take.
    """

    def __init__(
        self, kinds: Mapping[str, Modality[Any, Any]], limits: Mapping[str, Section], seconds: float
    ) -> None:  # fmt: skip
        self._kinds = {modality.name: (kind, modality) for kind, modality in kinds.items()}
        self._limits = limits
        self._known: dict[tuple[str, str], Features | ItemError] = {}
        self._limited = TimeLimited(_features, seconds)

    def features(self, name: str, text: str) -> Features:
        """Features of an item of a modality.

        Raises:
            ItemError: the text is no such item, is refused by a limit, or takes too long.
        """
        key = name, text
        if key not in self._known:
            self._known[key] = self._made(name, text)
        found = self._known[key]
        if isinstance(found, ItemError):
            raise found
        return found

    def _made(self, name: str, text: str) -> Features | ItemError:
        kind, modality = self._kinds[name]
        quick = modality.quick_characters is None or len(text) <= modality.quick_characters
        try:
            # For short texts a process of its own would cost more than the features.
            if quick:
                found = _features(kind, text, self._limits[name])
            else:
                found = self._limited(kind, text, self._limits[name])
        except TimeoutError as error:
            found = Refusal("too slow", f"{text[:80]!r}: {error}")
        if not isinstance(found, Refusal):
            return found
        refused = ItemError(found.reason, text[:80], "")
        refused.args = (found.message,)  # what the modality itself said
        refused.modality = name
        return refused

    def all_good(self, record: MultimodalQuestion) -> bool:
        """Whether each item of a record gives features; one of a modality that is not in the dataset does not."""
        try:
            for name in record.items:
                for text in record.of(name):
                    self.features(name, text)
        except (ItemError, KeyError):
            return False
        return True

    def __enter__(self) -> Items:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._limited.close()


def _features(kind: str, text: str, limits: Section) -> Any:
    try:
        # By reference: the other process imports the modality itself.
        return modality_of(kind).featurise(text, limits)
    except ItemError as error:
        return Refusal(error.reason, str(error))
