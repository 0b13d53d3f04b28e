"""What an architecture says about its config.json of Hugging Face; hf_config.py reads and writes by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class HuggingFaceFormat:
    """How config.json describes one architecture.

    Attributes:
        model_type: the key of that name; transformers chooses its classes by it.
        transformers_class: the causal language model of transformers.
        defaults: what transformers takes for an absent key, for keys whose default here is another one.
        fixed: keys with the only value that is computed here; written on export, any other value refused on import.
        keys: further keys of the configuration that stand in config.json under the same name.
    """

    model_type: str
    transformers_class: str
    defaults: Mapping[str, object]
    fixed: Mapping[str, object]
    keys: tuple[str, ...] = field(default=())
