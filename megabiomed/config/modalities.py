"""Modalities, encoders and adaptors as a configuration names them: kinds are registered, and each brings its own keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, SerializeAsAny, ValidationInfo, field_validator, model_validator

from megabiomed.config.base import Section, nested
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.registry import Registry

EncoderSharding = Literal["replicate", "zero3"]
Training = Literal["frozen", "lora", "full"]


class EncoderLoraConfig(Section):
    """Low-rank adaptation of an encoder (Hu et al. 2021, arXiv 2106.09685), used by stages that say `lora`."""

    r: PositiveInt = 8
    """Rank of the update of each matrix (OpenBioMed: 8)."""
    alpha: float = Field(32.0, gt=0)
    """The update is multiplied by alpha / r (OpenBioMed: 32)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the update; its masks depend on seed, step and sample alone, never on the topology."""


class EncoderConfig(Section):
    """Keys that every encoder has; a kind of encoder adds its own."""

    kind: str
    """A registered encoder of the modality, or one of your own as package.module:ATTRIBUTE."""
    hidden_size: PositiveInt
    """Width of the rows that the encoder makes."""
    init_from: Path | None = None
    """Weights to start from; null starts from random weights."""
    placement: EncoderSharding = "replicate"
    """Where parameters live: on every rank, or sharded over all ranks of the job (ZeRO-3; pays only when trained)."""
    lora: SerializeAsAny[EncoderLoraConfig] = Field(default_factory=EncoderLoraConfig)
    """Updates in stages that say `lora` for this modality."""


class CachedEncoderConfig(EncoderConfig):
    """Keys of an encoder whose rows can be kept on disk while it is frozen."""

    cache: Path | None = None
    """Folder for the rows of a frozen encoder, keyed by its weights; shared by ranks and runs. null: no cache."""
    cache_gib: float = Field(100.0, gt=0)
    """Nothing is added to the cache beyond this size."""

    @model_validator(mode="after")
    def _cache_is_for_whole_encoders(self) -> CachedEncoderConfig:
        if self.cache is not None and self.placement == "zero3":
            raise ValueError(
                "cache with placement zero3: a rank that finds its items in the cache would not join the gathers; set "
                "placement to replicate, which a frozen encoder wants anyway"
            )
        return self


class AdaptorConfig(Section):
    """What turns encoder rows into embeddings of the language model."""

    kind: Literal["linear", "mlp", "resampler"] = "mlp"
    """linear: one matrix, as BioMedGPT-10B; mlp: two layers; resampler: learned queries attend to the rows of an item."""
    num_queries: PositiveInt = 32
    """Embeddings that the resampler makes of each item."""


class EncoderKind:
    """What a configuration needs to know of a kind of encoder. `megabiomed.encoders.encoder.Encoder` adds the rest."""

    config: type[EncoderConfig]
    """Class of its keys."""
    reads_weights: bool = False
    """Whether it reads files of weights (`init_from`)."""
    takes_lora: bool = False
    """Whether it has matrices for low-rank updates."""


class ModalityKind:
    """What a configuration needs to know of a modality. `megabiomed.encoders.modality.Modality` adds the rest."""

    name: str
    """As in `align.modalities`, in stages, in datasets and in the names of parameters."""
    encoders: Registry[EncoderKind]
    """Its encoders by short name; the first is the default (see `encoders_of`)."""

    def encoder(self, kind: str | None) -> EncoderKind:
        """An encoder of this modality by short name or reference; None means the default."""
        return self.encoders.find(kind or self.encoders.names()[0])


def encoders_of(modality: str, shipped: dict[str, str]) -> Registry[EncoderKind]:
    """The registry of the encoders of a modality: short names to `package.module:ATTRIBUTE`, the default first."""
    return Registry(
        f"{modality} encoder", shipped, lambda held: isinstance(held, EncoderKind),
        "a megabiomed.encoders.encoder.Encoder",
    )  # fmt: skip


MODALITIES: Registry[ModalityKind] = Registry(
    "modality",
    {"molecule": "megabiomed.encoders.gin:MOLECULE", "protein": "megabiomed.encoders.esm2:PROTEIN"},
    lambda held: isinstance(held, ModalityKind),
    "a megabiomed.encoders.modality.Modality",
)
"""The modalities of every run. Stores made before stores named their modalities number them in this order."""


def encoder_class(modality: str, values: object) -> type[EncoderConfig]:
    """The class of an encoder's keys.

    Args:
        modality: registered name or reference.
        values: the keys, of which `kind` counts.
    """
    kind = values.get("kind") if isinstance(values, dict) else None
    return MODALITIES.find(modality).encoder(None if kind is None else str(kind)).config


def encoder_places(align: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """(mapping, key) of every encoder in the values of `align`: each may be named by a file of configs/encoders."""
    # null switches a modality off; a missing key means its default encoder.
    shipped = [(align, name) for name in MODALITIES.names() if align.get(name, {}) is not None]
    added = align.get("modalities")
    further = added.values() if isinstance(added, dict) else ()
    return [*shipped, *((held, "encoder") for held in further if isinstance(held, dict) and "encoder" in held)]


def encoder_section(modality: str, values: object, mode: str) -> EncoderConfig:
    """An encoder's keys, checked by the class of its kind."""
    if isinstance(values, EncoderConfig):
        return values
    return nested(encoder_class(modality, values), values, mode)


def default_encoder(modality: str) -> Callable[[], EncoderConfig]:
    """Makes the default settings of a modality's default encoder."""
    # Not before it is used: this imports the class of the encoder.
    return lambda: nested(encoder_class(modality, {}), {}, "python")


class ModalityConfig(Section):
    """A modality that is added to the run."""

    kind: str
    """package.module:ATTRIBUTE of a megabiomed.encoders.modality.Modality, importable on every rank."""
    encoder: SerializeAsAny[EncoderConfig] = Field(default=None, validate_default=True)
    """Its encoder: `kind` and the keys of that kind; its default encoder otherwise."""
    adaptor: AdaptorConfig = Field(default_factory=AdaptorConfig)
    """Its adaptor."""

    @field_validator("encoder", mode="plain")
    @classmethod
    def _encoder_by_kind(cls, values: Any, info: ValidationInfo) -> EncoderConfig:
        # `kind` stands above `encoder`, so it is missing here only if it was refused itself.
        kind = info.data.get("kind")
        if kind is None:
            raise ValueError("the modality has no kind")
        return encoder_section(str(kind), {} if values is None else values, info.mode)

    @classmethod
    def section_at(cls, key: str, values: object) -> type[Section] | None:
        """See the base class."""
        if key != "encoder" or not isinstance(values, dict) or "kind" not in values:
            return super().section_at(key, values)
        return encoder_class(str(values["kind"]), values.get("encoder"))


@dataclass(frozen=True)
class Part:
    """A modality of a run: its kind as registered, encoder and adaptor."""

    name: str
    kind: str
    encoder: EncoderConfig
    adaptor: AdaptorConfig

    def check(self, uses_lora: bool, at: str) -> None:
        """Refuse keys that this kind of encoder does not obey.

        Raises:
            ConfigError: weights or low-rank updates for an encoder without them, or one name for two modalities.
        """
        modality = MODALITIES.find(self.kind)
        if modality.name != self.name:
            raise ConfigError(
                f"align.modalities.{self.name} is another modality", got=f"{self.kind}, whose name is {modality.name!r}",
                do=f"write it as align.modalities.{modality.name}",
            )  # fmt: skip
        encoder = modality.encoder(self.encoder.kind)
        if uses_lora and not encoder.takes_lora:
            raise ConfigError(
                f"a stage says {self.name}: lora, and encoder {self.encoder.kind} has no matrices for it",
                do=f"say {self.name}: full, or choose another {at}.kind",
            )
        if self.encoder.init_from is not None and not encoder.reads_weights:
            raise ConfigError(
                f"encoder {self.encoder.kind} reads no weights", got=f"{at}.init_from: {self.encoder.init_from}",
                do="leave init_from out, or choose another kind",
            )  # fmt: skip
