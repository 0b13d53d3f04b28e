"""Export with a certificate: a folder gets its name only when it was shown to be the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from megabiomed.checkpoint.logical import TensorSource
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.config.schema import ModelConfig
from megabiomed.ground.errors import CheckpointError
from megabiomed.model.certificate import CERTIFICATE, Certificate, certify
from megabiomed.model.hf_folder import export_hf


def export_certified(
    checkpoint: Checkpoint,
    source: TensorSource,
    model: ModelConfig,
    folder: Path,
    dtype: Literal["bf16", "fp16", "fp32"],
    tokenizer: bool,
    max_shard_bytes: int,
    allow_uncertified: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Certificate:
    """Export a checkpoint of any topology, certify the folder and store certificate.json in it.

    Args:
        source: the whole model of the checkpoint (`origin.whole_model`).
        tokenizer: add the tokenizer that is stored in the checkpoint.
        allow_uncertified: keep a folder that is not the same model; its certificate then says so.
        tick: called for each tensor and 2 * num_hidden_layers times more.

    Raises:
        CheckpointError: the folder is not the same model; nothing is left of it.
    """
    held: list[Certificate] = []

    def inspect(temporary: Path) -> None:
        found = certify(temporary, source, model, "export", str(checkpoint.path), checkpoint.tokenizer, tick)
        found.folder = str(folder)
        if not allow_uncertified:
            try:
                found.check()
            except CheckpointError as error:
                raise CheckpointError(
                    error.what, got=error.got, do="--allow-uncertified writes it all the same"
                ) from None
        found.store(temporary / CERTIFICATE)
        held.append(found)

    stored = checkpoint.tokenizer if tokenizer else None
    export_hf(source, model, folder, dtype, stored, max_shard_bytes, inspect, tick)
    return held[0]
