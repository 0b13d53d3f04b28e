"""What a resumed run does otherwise than the start that saved its checkpoint: settings that bend the curve, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.yaml_text import read_yaml
from megabiomed.data.quarantine import Quarantine
from megabiomed.ground.errors import UserError

SECTIONS = ("optimizer", "train", "lora", "kernels", "align", "health", "seed")
"""The others change nothing in the arithmetic, or are compared by themselves (data order, architecture, batch size)."""
# Keys of these sections that only say what is shown, and when.
SILENT = (
    "log_every", "eval_every", "eval_samples", "hang_timeout_s", "hang_start_timeout_s", "collective_timeout_s", "stop_after",
)  # fmt: skip


_SHOWN = 5


def changed_settings(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """Lines of `key: before -> now`; empty where nothing changed, or where the stored configuration cannot be read.

    Keys that the release which saved did not have count as their default.
    """
    try:
        before = read_yaml(checkpoint.config_text, str(checkpoint.path))
    except UserError:
        before = None
    if not isinstance(before, dict):
        return ["settings: those of the checkpoint cannot be read, so changes are not shown"]
    now = read_yaml(to_yaml(config), config.name)
    return [
        f"{key}: {_shown(was)} -> {_shown(there)}"
        for key, was, there in differences(before, now, config)
        if key.split(".")[0] in SECTIONS and key.split(".")[-1] not in SILENT
    ]


def changed_quarantine(checkpoint: Checkpoint, now: Quarantine) -> list[str]:
    """A line about the papers that are masked out of the loss, where the start that saved masked others."""
    before = sorted(checkpoint.trainer.data.quarantined)
    return [] if before == now.papers else [f"quarantine: {_listed(before)} -> {_listed(now.papers)}"]


def _listed(papers: list[str]) -> str:
    more = f" and {len(papers) - _SHOWN} more" if len(papers) > _SHOWN else ""
    return ", ".join(papers[:_SHOWN]) + more if papers else "none"


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], section: Any, prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, before, now) of what differs, sorted, at any depth; an absent value is null.

    Args:
        section: what `now` was written from, which knows the defaults of its keys; free mappings have none.
    """
    for key in sorted({*before, *now}):
        was, there = before.get(key, _default(section, key)), now.get(key)
        if isinstance(was, Mapping) and isinstance(there, Mapping):
            yield from differences(was, there, getattr(section, key, None), f"{prefix}{key}.")
        elif was != there:
            yield f"{prefix}{key}", was, there


def _default(section: Any, key: str) -> Any:
    field = type(section).model_fields.get(key) if isinstance(section, BaseModel) else None
    if field is None or field.is_required():
        return None
    value = field.get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
