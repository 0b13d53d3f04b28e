"""trainer.json: how far a run was, and what a checkpoint refers to without holding it.

docs/checkpoints.md lists the keys. A key that changes its meaning, or a new one, raises `VERSION`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megabiomed.checkpoint.manifest import LARGEST, MOST_RANKS, not_of_format, read_stored
from megabiomed.config.lora import LoraConfig
from megabiomed.data.progress import DataProgress
from megabiomed.ground.errors import CheckpointError

VERSION = 2
"""Of the format that this release writes. Files without a version are of releases before it was counted: version 0."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Ranks = Annotated[int, Field(ge=1, le=MOST_RANKS)]


class _Record(BaseModel):
    # Unknown keys are left to `_check_keys`: whether they are an error depends on the version.
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Reference(_Record):
    """A language model that a checkpoint was trained with and does not hold.

    Attributes:
        path: of a checkpoint or a Hugging Face folder; None for weights that a seed gives.
        sha256: of the checkpoint's manifest, of the folder's weights, or of the seed.
    """

    kind: Literal["checkpoint", "huggingface", "seeded"]
    path: str | None
    sha256: str


class Health(_Record):
    """What later steps of a run are judged by, and what was decided (docs/health.md).

    Attributes:
        skipped_steps: steps of `global_step` whose update was not applied; the optimizer does not count them.
        losses, grad_norms: of the newest applied steps, the oldest first.
        spent: steps at which a step was skipped or the run rewound, as long as the budget counts them.
    """

    skipped_steps: Count = 0
    losses: list[float] = Field(default_factory=list)
    grad_norms: list[float] = Field(default_factory=list)
    spent: list[Count] = Field(default_factory=list)


Frozen = dict[str, Reference | str]
"""What a run keeps frozen, by name: a `Reference` for `language_model`, a fingerprint for an encoder."""


class Topology(_Record):
    """The ranks that wrote a checkpoint; for people, because any topology reads it. None: not noted."""

    tensor: Ranks | None = None
    pipeline: Ranks | None = None
    data: Ranks | None = None
    engine: str | None = None
    encoder_ranks: Ranks | None = None


class EngineState(TypedDict, total=False):
    """The keys of trainer.json that the engine knows; the trainer knows the others."""

    frozen: Frozen
    lora: LoraConfig
    stage: str
    stage_lora: LoraConfig
    template: str


class TrainerState(_Record):
    """Everything in trainer.json. A key that a file lacks has its default.

    Attributes:
        version: of the format the file was written in.
        global_step: optimizer steps that were done.
        tokens_consumed: tokens that were read, padding included.
        samples_consumed: windows that were read.
        global_batch_size: windows of one step; None: not noted.
        data: position in the data and what decides their order.
        health: of the loss and the gradient norm; None: not noted.
        seed: of the run.
        megabiomed: the release that wrote the file.
        frozen: what the run was trained with and did not change.
        lora: the adapters that the checkpoint holds in place of a complete model.
        stage: name of the stage, of an alignment.
        stage_lora: adapters of the language model that the stage trained.
        template: prompt template of the stage's data.
    """

    version: Count = VERSION
    global_step: Count = 0
    tokens_consumed: Count = 0
    samples_consumed: Count = 0
    global_batch_size: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    data: DataProgress = Field(default_factory=DataProgress)
    health: Health | None = None
    seed: Annotated[int, Field(ge=-LARGEST, le=LARGEST)] = 0
    topology: Topology = Field(default_factory=Topology)
    megabiomed: str | None = None
    frozen: Frozen = Field(default_factory=dict)
    lora: LoraConfig | None = None
    stage: str | None = None
    stage_lora: LoraConfig | None = None
    template: str | None = None

    @model_validator(mode="after")
    def _position_is_one(self) -> TrainerState:
        if not 0 <= self.data.next_sample <= LARGEST:
            raise ValueError(f"data.next_sample {self.data.next_sample} is no number of a sample")
        if not re.fullmatch("[0-9a-f]{32}", self.data.ids_hash):
            raise ValueError(f"data.ids_hash {self.data.ids_hash[:50]!r} is no hash of 32 hexadecimal digits")
        return self

    @property
    def language_model(self) -> Reference | None:
        """The frozen language model, if the run had one."""
        found = self.frozen.get("language_model")
        return found if isinstance(found, Reference) else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for trainer.json; what the run does not have is left out, as earlier releases expect."""
        values = self.model_dump(mode="json")
        values["topology"] = self.topology.model_dump(exclude_none=True)
        if not self.frozen:
            del values["frozen"]
        for key in ("skipped", "quarantined"):
            if not values["data"][key]:
                del values["data"][key]
        return {key: value for key, value in values.items() if value is not None}


def read_state(path: Path) -> TrainerState:
    """Read a trainer.json of this format or an earlier one.

    Raises:
        CheckpointError: not readable, of a newer format, with an unknown key, or with a value of the wrong type; names
            the file, the key, what was found and what belongs there.
    """
    values = read_stored(path)
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged", got=type(values).__name__, expected="a JSON object")
    values.setdefault("version", 0)
    _check_keys(path, values)
    try:
        # As JSON and strictly: a string of digits is no number.
        return TrainerState.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise not_of_format(path, error) from None


def _check_keys(path: Path, values: dict[str, Any]) -> None:
    version = values["version"]
    unknown = ", ".join(sorted(set(values) - set(TrainerState.model_fields)))
    if isinstance(version, int) and version > VERSION:
        raise CheckpointError(
            f"{path} has a newer format"
            + (f" with keys that this release does not know: {unknown}" if unknown else ""),
            got=f"version {version}",
            expected=f"up to {VERSION}",
            do="update megabiomed",
        )
    if unknown and version:  # earlier releases did not check what they wrote
        raise CheckpointError(f"{path} has unknown keys", got=unknown, do="use the release that wrote it")
