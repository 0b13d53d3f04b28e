"""Every key of an alignment run, with its meaning, unit and default."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    TypeAdapter,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

from megabiomed.config.base import Section, nested
from megabiomed.config.lora import LoraConfig
from megabiomed.config.modalities import (
    MODALITIES,
    AdaptorConfig,
    EncoderConfig,
    ModalityConfig,
    Part,
    Training,
    default_encoder,
    encoder_class,
    encoder_section,
)
from megabiomed.config.schema import RunConfig


class AlignmentStageConfig(Section):
    """One stage of the alignment: what is trained, how fast, on what, how long. Adaptors are trained in every stage."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    """Name of the stage and of its folder in the run folder."""
    steps: PositiveInt
    """Optimizer steps."""
    molecule: Training = "frozen"
    """Molecule encoder: frozen, its LoRA trained, or trained. Each modality of `align.modalities` has such a key."""
    protein: Training = "frozen"
    """Protein encoder: frozen, its LoRA trained, or trained."""
    language_model: Training = "frozen"
    """Language model: frozen, adapters trained (section `lora`), or trained, both under `parallel`."""
    adaptor_lr: float = Field(1e-3, gt=0)
    """Peak learning rate of the adaptors."""
    encoder_lr: float = Field(2e-5, gt=0)
    """Peak learning rate of trained encoders."""
    lm_lr: float = Field(2e-5, gt=0)
    """Peak learning rate of a trained language model."""
    text_share: float = Field(0.0, ge=0, lt=1)
    """Share of the samples that come from `replay` (text only), against forgetting."""

    def mode(self, modality: str) -> Training:
        """What is trained of the encoder of a modality."""
        found: Training = getattr(self, modality)
        return found


@lru_cache
def stage_class(added: tuple[str, ...]) -> type[AlignmentStageConfig]:
    """The stages of runs with these added modalities: each has a key of its own, as `molecule` and `protein` have."""
    # A key for each, so that a misspelt name in a stage is refused like any other key.
    keys: dict[str, Any] = {name: (Training, Field("frozen", description=f"Encoder of {name}.")) for name in added}
    return (
        create_model("AlignmentStageConfig", __base__=AlignmentStageConfig, **keys) if added else AlignmentStageConfig
    )


class AlignSource(Section):
    """One dataset of questions."""

    path: Path
    """Folder of one split, made by `megabiomed multimodal build`."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


class AlignConfig(Section):
    """The multimodal part of an alignment run."""

    molecule: SerializeAsAny[EncoderConfig] | None = Field(default_factory=default_encoder("molecule"))
    """The molecule encoder; null: the run has no molecules."""
    protein: SerializeAsAny[EncoderConfig] | None = Field(default_factory=default_encoder("protein"))
    """The protein encoder; null: the run has no proteins."""
    molecule_adaptor: AdaptorConfig = Field(default_factory=AdaptorConfig)
    protein_adaptor: AdaptorConfig = Field(default_factory=AdaptorConfig)
    modalities: dict[str, ModalityConfig] = Field(default_factory=dict)
    """Further modalities by name, each `{kind, encoder, adaptor}` (docs/extending.md)."""
    train: list[AlignSource] = Field(default_factory=list)
    """Training splits with their shares."""
    validation: Path | None = None
    """Held-out split for the validation loss."""
    replay: Path | None = None
    """Token store for `text_share`."""
    language_model: Path | None = None
    """Checkpoint of a pretraining run to start from; null takes model.init_from or random weights."""
    stages: list[SerializeAsAny[AlignmentStageConfig]] = Field(min_length=1)
    """The stages, in order; each starts from the checkpoint of the one before."""
    encoder_ranks: list[NonNegativeInt] | None = Field(None, min_length=1)
    """World ranks that encode; null: all, which is the fastest. The others hold no weights of frozen, replicated encoders."""
    dedicated_encoder_ranks: NonNegativeInt = 0
    """Ranks with encoders, adaptors and nothing else: the last of the world, beside those of the language model, which then
    hold nothing of the encoders. 0: encoders share the ranks of the language model, which is the fastest."""
    watchdog_s: float = Field(300.0, gt=0, le=1e8)
    """Seconds in one phase of a step after which a rank says where it waits, and with what."""

    @model_validator(mode="after")
    def _consistent(self) -> AlignConfig:
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names {names} repeat; each stage has its own folder")
        if any(stage.text_share for stage in self.stages) and self.replay is None:
            raise ValueError("text_share needs a token store in align.replay")
        if self.encoder_ranks is not None and self.dedicated_encoder_ranks:
            raise ValueError(
                "encoder_ranks chooses among the ranks of the language model, and with dedicated_encoder_ranks none of those "
                "encodes; remove one of the two"
            )
        absent = [name for name in MODALITIES.names() if getattr(self, name) is None]
        for name in absent:
            if any(stage.mode(name) != "frozen" for stage in self.stages):
                raise ValueError(f"a stage trains the encoder of {name}, and align.{name} is null")
        for part in self.parts():
            at = f"align.{part.name}" if part.name in MODALITIES.names() else f"align.modalities.{part.name}.encoder"
            part.check(self.uses_lora(part.name), at)
        return self

    @field_validator("molecule", "protein", mode="plain")
    @classmethod
    def _encoder_by_kind(cls, values: Any, info: ValidationInfo) -> EncoderConfig | None:
        return None if values is None else encoder_section(str(info.field_name), values, info.mode)

    @field_validator("modalities", mode="after")
    @classmethod
    def _names_are_free(cls, modalities: dict[str, ModalityConfig]) -> dict[str, ModalityConfig]:
        for name in modalities:
            # A modality becomes a key of every stage, so its name must be free there.
            if name in (*cls.model_fields, *AlignmentStageConfig.model_fields):
                raise ValueError(f"{name} is a key of align or of its stages; give the modality another name")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"{name!r} cannot name a modality; use lower-case letters, digits and _")
        return modalities

    @field_validator("stages", mode="plain")
    @classmethod
    def _stages_know_all_modalities(cls, values: Any, info: ValidationInfo) -> list[AlignmentStageConfig]:
        # Stages that are built already (`model_copy`, Python code) were checked when they were made.
        if isinstance(values, list) and all(isinstance(stage, AlignmentStageConfig) for stage in values):
            return values
        # pydantic checks fields in their order, so `modalities`, which stands above, is known here.
        kind = stage_class(tuple(info.data.get("modalities", ())))
        adapter: TypeAdapter[list[AlignmentStageConfig]] = TypeAdapter(Annotated[list[kind], Field(min_length=1)])  # type: ignore[valid-type, arg-type]
        return nested(adapter, values, info.mode)

    @classmethod
    def section_at(cls, key: str, values: object) -> type[Section] | None:
        """See the base class."""
        held = values if isinstance(values, dict) else {}
        if key in MODALITIES.names():
            return encoder_class(key, held.get(key))
        if key == "stages" and isinstance(held.get("modalities"), dict):
            return stage_class(tuple(held["modalities"]))
        return super().section_at(key, values)

    def parts(self) -> list[Part]:
        """The modalities of the run with their encoders and adaptors, always in this order."""
        shipped = [
            Part(name, name, encoder, getattr(self, f"{name}_adaptor"))
            for name in MODALITIES.names() if (encoder := getattr(self, name)) is not None
        ]  # fmt: skip
        return [*shipped, *(Part(name, m.kind, m.encoder, m.adaptor) for name, m in self.modalities.items())]

    def uses_lora(self, modality: str) -> bool:
        """Whether any stage trains LoRA matrices of this encoder; they start as no change."""
        return any(stage.mode(modality) == "lora" for stage in self.stages)


class AlignRunConfig(RunConfig):
    """One alignment run: a training run whose data and length come from `align`."""

    align: AlignConfig

    @model_validator(mode="before")
    @classmethod
    def _length_from_stages(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("align"), dict):
            return values
        stages, train = values["align"].get("stages") or [], values.get("train") or {}
        # What has another type is refused by the checks of the fields, which name the key.
        if not isinstance(stages, list) or not isinstance(train, dict) or train.get("steps") or train.get("epochs"):
            return values
        # A stage without steps is refused later; 1 stands in for it until then.
        lengths = [stage.get("steps", 1) for stage in stages if isinstance(stage, dict)]
        counted = [length for length in lengths if isinstance(length, int)]
        return {**values, "train": {**train, "steps": sum(counted) or 1}}

    @model_validator(mode="after")
    def _adapters_belong_to_a_stage(self) -> AlignRunConfig:
        if self.lora is not None and all(stage.language_model != "lora" for stage in self.align.stages):
            raise ValueError("section lora is given and no stage trains adapters; set a stage's language_model: lora")
        return self

    @property
    def start(self) -> Path | None:
        """See the base class."""
        return self.align.language_model

    @property
    def extra_ranks(self) -> int:
        """See the base class."""
        return self.align.dedicated_encoder_ranks

    @property
    def parts(self) -> list[str]:
        """See the base class."""
        return [stage.name for stage in self.align.stages]

    def part(self, name: str) -> AlignRunConfig:
        """See the base class."""
        super().part(name)
        return self.stage_run(self.parts.index(name))

    def stage_run(self, number: int) -> AlignRunConfig:
        """The run of one stage, in its own folder. The learning rate of the log is that of the adaptors."""
        stage = self.align.stages[number]
        # A stage may ask for adapters without a section `lora`; they have its defaults then.
        adapters = self.lora or LoraConfig()
        return self.model_copy(
            update={
                "lora": adapters if stage.language_model == "lora" else None,
                "name": f"{self.name}-{stage.name}",
                "run_dir": self.folder / stage.name,
                "train": self.train.model_copy(update={"steps": stage.steps}),
                "optimizer": self.optimizer.model_copy(update={"lr": stage.adaptor_lr}),
            }
        )
