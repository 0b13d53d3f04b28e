"""Which kind of run a file describes: its sections say so."""

from __future__ import annotations

from typing import Any

from megabiomed.config.align import AlignRunConfig
from megabiomed.config.base import parse
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.schema import RunConfig
from megabiomed.config.yaml_text import read_yaml

KINDS: dict[str, type[RunConfig]] = {"align": AlignRunConfig, "finetune": FinetuneRunConfig}


def kind_of(values: Any) -> type[RunConfig]:
    """The configuration class of the values of a run file."""
    found = [kind for section, kind in KINDS.items() if isinstance(values, dict) and section in values]
    return found[0] if found else RunConfig


def stored_run(text: str, source: str) -> RunConfig:
    """The effective configuration that a run or checkpoint keeps, of whatever kind."""
    values = read_yaml(text, source)
    return parse(kind_of(values), values, source)
