"""Every key of a run's configuration, with its meaning, unit and default. docs/configuration.md is made from here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
from megabiomed.config.optimizers import OPTIMIZERS, SCHEDULES, Optimizer
from megabiomed.config.profiling import ProfileConfig
from megabiomed.config.time_limits import least_collective_s
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.secrets import masked_by_form, remember

_LONGEST_S = 1e8  # three years; torch counts a time-out in nanoseconds of 63 bits


class ParallelConfig(Section):
    """The topology: world = pipeline x data x tensor, tensor fastest. docs/parallelism.md says what each costs."""

    tensor_parallel_size: PositiveInt = 1
    """Ranks that share each weight matrix (keep it inside a node)."""
    pipeline_parallel_size: PositiveInt = 1
    """Ranks that each hold a consecutive part of the layers."""
    data_parallel_size: PositiveInt | None = None
    """Model replicas; null uses all remaining processes."""
    sequence_parallel: bool = False
    """Split the residual stream over the tensor ranks between matrix products (Korthikanti et al. 2022)."""
    virtual_pipeline_stages: PositiveInt = 1
    """Chunks of consecutive layers per pipeline rank; more than 1 needs pipeline_schedule: interleaved."""
    pipeline_schedule: Literal["1f1b", "gpipe", "interleaved"] = "1f1b"
    """Order of forwards and backwards of the micro-batches on a pipeline rank."""
    engine: Literal["deepspeed", "fsdp2"] = "deepspeed"
    """Data-parallel engine: DeepSpeed ZeRO (default) or torch FSDP2."""
    # 1: the communication of stage 0 with less memory. 2 and 3 save more and communicate in every micro-batch of a pipeline.
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed: 0 replicate, 1 shard optimizer, 2 + gradients, 3 + parameters. FSDP2 shards as stage 3."""
    offload_optimizer: bool = False
    """Keep master weights and moments in host memory and step there (deepspeed, zero_stage >= 1)."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """selective recomputes attention and SwiGLU in the backward pass; full recomputes whole blocks."""


class KernelsConfig(Section):
    """The implementation of each fused operation; `auto` chooses by device, type and shape (docs/kernels.md).

    A backend that cannot serve the run is an error before anything is built; it is never replaced silently.
    """

    attention: Literal[
        "auto", "per_document", "hopper", "triton", "flash4", "flash3", "varlen", "flash2", "flex", "dense"
    ] = "auto"
    """Document-masked causal attention with RoPE. per_document is for CPUs; flash2, flash3 and flash4 need flash-attn
    installed; hopper is for sm_90 and first checks itself against fp64, once for a kind of machine."""
    norm: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """RMSNorm with the residual add."""
    swiglu: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """SwiGLU."""
    loss: Literal["auto", "cpu", "triton", "torch"] = "auto"
    """Reductions of the chunked output head and loss."""
    adamw: Literal["auto", "triton", "torch"] = "auto"
    """The step of optimizer.kind adamw, with clipping and cast; an offloaded optimizer (parallel.offload_optimizer) and other
    kinds are stepped by torch."""
    loss_chunk_tokens: PositiveInt | None = None
    """Number of tokens whose logits exist at the same time; null keeps the logits at 256 MiB (GPU, bf16) or 32 MiB (CPU)."""
    weight_gradient: Literal["auto", "bits", "hook"] = "auto"
    """How gradients of bf16 matrices reach fp32: auto accumulates in the matrix product; bits rounds each product to bf16 and
    adds it to the same buffers (a check); hook leaves it to the engine's hooks, with the same bits and more traffic."""
    deterministic: bool = False
    """Use only backends that give the same bits in every backward pass (on a CPU all do)."""


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


class OptimizerConfig(Section):
    """The optimizer and its learning-rate schedule."""

    kind: str = "adamw"
    """Update rule: adamw (Loshchilov & Hutter 2019), or one's own as package.module:attribute, an `Optimizer` of
    megabiomed.config.optimizers."""
    # That of BioMedGPT-LM-7B.
    lr: float = Field(2e-5, gt=0)
    """Peak learning rate."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Final learning rate as a share of the peak."""
    schedule: str = "cosine"
    """Shape of the decay: cosine, linear, 1-sqrt, constant, or one's own function as package.module:attribute, from the share
    of the decay that is done (0 to 1) to the share of the peak above the final rate."""
    decay_steps: int | None = Field(None, ge=0)
    """Steps of the decay, the last of the run; before them the rate stays (warm-up, stable, decay; 0: it stays to the end).
    null: the decay takes all steps after warm-up."""
    cooldown_steps: int = Field(0, ge=0)
    """With decay_steps: steps after warm-up in which the rate falls as a cosine to stable_ratio (Ibrahim et al. 2024)."""
    stable_ratio: float = Field(1.0, gt=0, le=1)
    """With decay_steps: the rate between cooldown and decay as a share of the peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; null uses warmup_ratio."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Warm-up as a share of all steps, used when warmup_steps is null."""
    lr_scales: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """Factors of the learning rate by patterns of tensor names, as of file names: `{"lm_head.*": 0.5}`; of several that match
    a tensor the first counts. Encoders and adaptors are `encoder.NAME.*` and `adaptor.NAME.*`, adapters `*.lora_*`."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay; never applied to norm weights and biases."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment; the momentum of an optimizer with one."""
    # 0.95 as for GPT-3 and Llama; torch's 0.999 averages over a thousand steps.
    beta2: float = Field(0.95, ge=0, lt=1)
    """Decay of the second moment."""
    eps: float = Field(1e-8, gt=0)
    """Term added to the denominator."""
    clip_grad_norm: float = Field(1.0, ge=0)
    """Global gradient norm to clip to; 0 switches clipping off."""

    @field_validator("kind")
    @classmethod
    def _known_kind(cls, name: str) -> str:
        # By name alone: where a run is only read, the package with its rule need not be installed.
        OPTIMIZERS.check(name)
        return name

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, name: str) -> str:
        SCHEDULES.check(name)
        return name

    @model_validator(mode="after")
    def _phases_fit(self) -> OptimizerConfig:
        if self.decay_steps is None and (self.cooldown_steps or self.stable_ratio != 1):
            raise ValueError(
                "cooldown_steps and stable_ratio need decay_steps; set it (0: no decay after the stable phase)"
            )
        if (self.stable_ratio != 1) != bool(self.cooldown_steps):
            raise ValueError("cooldown_steps and stable_ratio below 1 belong together; set both or neither")
        # The decay would raise the rate.
        if self.stable_ratio < self.min_lr_ratio:
            raise ValueError(f"min_lr_ratio {self.min_lr_ratio} is above stable_ratio {self.stable_ratio}; lower it")
        return self

    @property
    def rule(self) -> Optimizer:
        """The entry of `kind`. A `ConfigError` if it cannot be imported."""
        return OPTIMIZERS.find(self.kind)


class TrainConfig(Section):
    """Length, precision and intervals of the training."""

    steps: PositiveInt | None = None
    """Optimizer steps; give either steps or epochs."""
    epochs: float | None = Field(None, gt=0, le=1e6)
    """Passes over the training mixture; give either steps or epochs."""
    first_step: int = Field(0, ge=0)
    """Step of the checkpoint in checkpoint.resume from which this run goes on with its weights and optimizer, while warm-up,
    schedule and data begin anew; `steps` counts the earlier ones too."""
    # Not fp16: its range needs loss scaling, which would skip steps by a rule of its own beside `health`.
    precision: Literal["fp32", "bf16", "fp8"] = "bf16"
    """Compute type. bf16 keeps fp32 master weights and reduces gradients in fp32. fp8 is bf16 whose blocks multiply in fp8 in
    the forward pass and for the gradients of their inputs (docs/kernels.md); it needs sm_89 or later, a CPU emulates it."""
    z_loss: float = Field(0.0, ge=0)
    """Weight of the squared log-normaliser added to every token's training loss (Chowdhery et al. 2022); 0 is off."""
    log_every: PositiveInt = 1
    """Steps between log lines."""
    eval_every: int = Field(0, ge=0)
    """Steps between validation losses; 0 evaluates only at the end."""
    eval_samples: PositiveInt = 64
    """Validation samples per evaluation (fewer when the store is smaller)."""
    hang_timeout_s: float | None = Field(None, ge=0, le=_LONGEST_S)
    """A rank that does not advance for this many seconds writes its stack and ends the run; null: 20 times the slowest of the
    first steps, from 600 to 1800 (docs/operators.md); 0 disables the guard."""
    hang_start_timeout_s: float = Field(7200, gt=0, le=_LONGEST_S)
    """The same limit until the first step is done: reading and certifying weights takes longer than a step."""
    collective_timeout_s: float | None = Field(None, gt=0, le=_LONGEST_S)
    """Seconds after which torch ends a collective that a rank did not join; null: a fifth longer than the hang guard, which
    has to speak first. During the start the limit is longer than hang_start_timeout_s."""
    stop_after: PositiveInt | None = None
    """Save and exit after this many steps of this invocation (a planned interruption)."""

    @property
    def compute_type(self) -> Literal["fp32", "bf16"]:
        """The type of weights and activations in memory: fp8 exists inside products alone."""
        return "fp32" if self.precision == "fp32" else "bf16"

    # torch would end the ranks before any of them could say where it stands.
    @model_validator(mode="after")
    def _guard_speaks_first(self) -> TrainConfig:
        least = least_collective_s(self.hang_timeout_s)
        if self.collective_timeout_s is not None and self.collective_timeout_s < least:
            raise ValueError(
                f"collective_timeout_s {self.collective_timeout_s:g} is not after the hang guard; set {least:g} or more, "
                "lower hang_timeout_s, or remove it"
            )
        return self

    # Of two lengths one would be ignored; without any, a forgotten key would train for a default.
    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        if self.steps is not None and self.steps <= self.first_step:
            raise ValueError(
                f"steps {self.steps} counts from the beginning; set more than first_step {self.first_step}"
            )
        return self


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
