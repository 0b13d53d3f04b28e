"""A run's configuration: its sections, each with the meaning, unit and default of its keys (docs/configuration.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from megabiomed.config.base import Section
from megabiomed.config.evaluation import EvalConfig
from megabiomed.config.health import HealthConfig
from megabiomed.config.lora import LoraConfig
from megabiomed.config.models import MODELS, ModelConfig, model_class, model_section
from megabiomed.config.optimization import OptimizerConfig
from megabiomed.config.parallel import KernelsConfig, ParallelConfig
from megabiomed.config.profiling import ProfileConfig
from megabiomed.config.training import TrainConfig
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.secrets import masked_by_form, remember


class SourceConfig(Section):
    """One token store of the training mixture."""

    path: Path
    """Folder of a token store (made by `megabiomed corpus build`)."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


class DataConfig(Section):
    """Data sources, sample order and batch sizes."""

    train: list[SourceConfig] = Field(default_factory=list)
    """Token stores to train on, with their shares."""
    validation: Path | None = None
    """Token store for the validation loss; null means none."""
    tokenizer: Path | None = None
    """File of the tokenizer; null takes the one stored beside the first training store."""
    # 2,048 tokens and 192 samples are those of BioMedGPT-LM-7B.
    seq_length: PositiveInt = 2048
    """Tokens per sample (one packed window)."""
    packing: Literal["contiguous", "best_fit"] = "contiguous"
    """How documents fill windows: contiguous cuts the stream of all documents; best_fit cuts documents longer than
    seq_length and puts their ends, and shorter documents, uncut where they fit best, unless that would pad more than half a
    percent (needs memory for every document)."""
    micro_batch_size: PositiveInt = 1
    """Samples per forward pass on one data-parallel rank."""
    global_batch_size: PositiveInt = 192
    """Samples per optimizer step over all ranks."""
    prefetch: int = Field(2, ge=0)
    """Batches that a background thread prepares ahead; 0 prepares each when it is needed."""


class CheckpointConfig(Section):
    """When checkpoints are written, which are kept, and where a start resumes."""

    save_every: int = Field(500, ge=0)
    """Steps between ephemeral checkpoints; 0 switches them off. The end of a run and a stop signal always save."""
    save_every_minutes: float = Field(0, ge=0)
    """Also save when this many minutes have passed since the last save, by a monotonic clock; 0 switches this off."""
    max_unsaved_steps: int = Field(1000, ge=0)
    """Steps that a run goes on after a save that failed because of its storage (full, away, slow), while it is tried again
    with growing pauses; 0: it ends with the save that fails."""
    # More than one: the newest can turn out to be damaged, or trained on bad data.
    keep_last: PositiveInt = 3
    """Number of newest checkpoints to keep."""
    keep_every: int = Field(0, ge=0)
    """Steps between permanent checkpoints, which are never deleted; 0 makes none."""
    # Hashing reads the checkpoint once more: with optimizer state that is about 100 GB at 7B, minutes before every start.
    verify: Literal["size", "hash"] = "size"
    """What a start checks of a checkpoint before it resumes: names and sizes (milliseconds), or every byte."""
    resume: str = "auto"
    """auto: newest valid checkpoint of this run, or a fresh start; never: refuse to continue; or the path of a checkpoint
    from which a run without checkpoints of its own starts."""
    allow_data_change: bool = False
    """Resume although the data order differs from the checkpoint's; samples may then be repeated or skipped."""
    certify_import: bool = True
    """After a start from model.init_from, prove that all ranks have the weights that transformers reads and compute the same
    results; see import_certificate.json in the run folder."""


class TrackingConfig(Section):
    """Experiment tracking. metrics.jsonl is always written."""

    kind: str | list[str] | None = "mlflow"
    """mlflow, prometheus (a text file in the run folder), tensorboard, wandb, or `package.module:attribute` of a tracker of
    your own; a list for several; null: metrics.jsonl alone."""
    mlflow: bool = True
    """false switches kind mlflow off."""
    # Not in repr, because it may hold a password.
    mlflow_uri: str | None = Field(None, repr=False)
    """MLflow tracking URI; null uses a local store in the run folder, without server or network. Credentials in it are shown
    and stored as `***`; a URI with `***` takes them from MLFLOW_TRACKING_URI, or from MLflow's own MLFLOW_TRACKING_USERNAME
    and MLFLOW_TRACKING_PASSWORD."""
    experiment: str = "megabiomed"
    """MLflow experiment name."""

    @field_validator("mlflow_uri")
    @classmethod
    def _remembered(cls, uri: str | None) -> str | None:
        # Messages and logs mask the credentials by value from now on.
        remember(uri or "")
        return uri

    @field_serializer("mlflow_uri")
    def _without_credentials(self, uri: str | None) -> str | None:
        return uri and masked_by_form(uri)


class RunConfig(Section):
    """One training run: the content of its YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the run; letters, digits, dot, underscore and hyphen."""
    kind: str | None = None
    """pretrain, align, finetune, or `package.module:attribute` of a kind of your own; null: its sections tell the kind."""
    run_dir: Path | None = None
    """Folder of the run; null means runs/NAME."""
    seed: int = Field(1234, ge=0)
    """Seed of the data order and of fresh weights."""
    model: SerializeAsAny[ModelConfig] = Field(default_factory=ModelConfig)
    lora: LoraConfig | None = None
    """Train only low-rank adapters of the language model; null trains all of it."""
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    kernels: KernelsConfig = Field(default_factory=KernelsConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    train: TrainConfig
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    health: HealthConfig = Field(default_factory=HealthConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)
    tracking: TrackingConfig = Field(default_factory=TrackingConfig)
    profile: ProfileConfig | None = None
    """Steps to profile; null: none."""

    @field_validator("model", mode="plain")
    @classmethod
    def _model_by_kind(cls, values: Any, info: ValidationInfo) -> ModelConfig:
        return model_section(values, info.mode)

    @classmethod
    def section_at(cls, key: str, values: object) -> type[Section] | None:
        """See the base class."""
        if key == "model" and isinstance(values, dict):
            return model_class(values.get("model"))
        return super().section_at(key, values)

    @model_validator(mode="after")
    def _adapters_have_matrices(self) -> Self:
        if self.lora is not None:
            self.lora.check_targets(MODELS.find(self.model.kind).adapter_targets(), self.model.kind)
        return self

    @model_validator(mode="after")
    def _rewinds_to_checkpoints(self) -> Self:
        kept = self.checkpoint
        saves = kept.save_every or kept.save_every_minutes or kept.keep_every
        for key in ("non_finite", "spike"):
            if getattr(self.health, key) == "rewind" and not saves:
                raise ValueError(
                    f"health.{key} is rewind, and the run saves no checkpoint on its way; set checkpoint.save_every"
                )
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run_dir or Path("runs") / self.name

    @property
    def start(self) -> Path | None:
        """Run folder, checkpoint or Hugging Face folder that the run begins with in place of model.init_from."""
        return None

    @property
    def extra_ranks(self) -> int:
        """Ranks of the run after those of the language model, without any part of it."""
        return 0

    @property
    def parts(self) -> list[str]:
        """Names of the parts that can be jobs of their own, in order: the stages of an alignment. Others have none."""
        return []

    def part(self, name: str) -> RunConfig:
        """The run of one part, in a folder of its own.

        Raises:
            ConfigError: there is no such part.
        """
        if name not in self.parts:
            raise ConfigError(
                f"{self.name} has no such stage",
                got=repr(name),
                expected=", ".join(self.parts) or "no stage: only alignment runs have stages",
            )
        return self
