"""What an architecture says about its config.json of Hugging Face; hf_config.py reads and writes by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


def no_window(values: Mapping[str, Any]) -> None:
    """Every token sees all tokens before it, whatever config.json says."""


@dataclass(frozen=True)
class HuggingFaceFormat:
    """How config.json describes one architecture.

    Attributes:
        model_type: the key of that name; transformers chooses its classes by it.
        transformers_class: the causal language model of transformers.
        defaults: what transformers takes for an absent key, for keys whose default here is another one. A null number of
            key/value heads is that of the query heads.
        fixed: keys with the only value that is computed here; written on export, any other value refused on import.
        keys: further keys of the configuration that stand in config.json under the same name.
        exported: further keys that are written on export.
        window: the sliding window of the attention, in tokens, from the values of config.json; None where there is none.
    """

    model_type: str
    transformers_class: str
    defaults: Mapping[str, object]
    fixed: Mapping[str, object]
    keys: tuple[str, ...] = field(default=())
    exported: Mapping[str, object] = field(default_factory=dict)
    window: Callable[[Mapping[str, Any]], int | None] = no_window
