"""What a resumed run does otherwise than the start that saved its checkpoint: settings that bend the curve, one line each."""

from __future__ import annotations

from typing import Any

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config import RunConfig, to_yaml
from megabiomed.config.yaml_text import read_yaml
from megabiomed.ground.errors import UserError
from megabiomed.ground.mappings import leaves

SECTIONS = ("optimizer", "train", "lora", "kernels", "align", "seed")
"""The others change nothing in the arithmetic, or are compared by themselves (data order, architecture, batch size)."""
# Keys of these sections that only say what is shown, and when.
SILENT = (
    "log_every", "eval_every", "eval_samples", "hang_timeout_s", "hang_start_timeout_s", "collective_timeout_s", "stop_after",
)  # fmt: skip


def changed_settings(checkpoint: Checkpoint, config: RunConfig) -> list[str]:
    """Lines of `key: before -> now`; empty where nothing changed, or where the stored configuration cannot be read.

    Keys that the release which saved did not have are left out.
    """
    try:
        before = dict(leaves(read_yaml(checkpoint.config_text, str(checkpoint.path))))
    except UserError:
        return ["settings: those of the checkpoint cannot be read, so changes are not shown"]
    now = dict(leaves(read_yaml(to_yaml(config), config.name)))
    return [
        f"{key}: {_shown(before[key])} -> {_shown(now.get(key))}"
        for key in sorted(before)
        if key.split(".")[0] in SECTIONS and key.split(".")[-1] not in SILENT and before[key] != now.get(key)
    ]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
