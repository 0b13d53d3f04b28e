"""Every key of an alignment run, with its meaning, unit and default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from megabiomed.config.base import Section
from megabiomed.config.lora import LoraConfig
from megabiomed.config.schema import RunConfig

Placement = Literal["replicate", "zero3"]
Training = Literal["frozen", "lora", "full"]
EsmMatrix = Literal["query", "key", "value", "output", "fc1", "fc2"]


class EncoderLoraConfig(Section):
    """Low-rank adaptation of an encoder (Hu et al. 2021, arXiv 2106.09685), used by stages that say `lora`."""

    r: PositiveInt = 8
    """Rank of the update of each matrix (OpenBioMed: 8)."""
    alpha: float = Field(32.0, gt=0)
    """The update is multiplied by alpha / r (OpenBioMed: 32)."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the update; its masks depend on seed, step and sample alone, never on the topology."""


class EsmLoraConfig(EncoderLoraConfig):
    """LoRA of the protein encoder."""

    targets: list[EsmMatrix] = Field(["query", "value"], min_length=1)
    """Matrices of each layer that get an update (OpenBioMed: query, value)."""


class GinConfig(Section):
    """The molecule encoder: GIN of pretrain-gnns and GraphMVP (Hu et al. 2020; Liu et al. 2022), or another graph network."""

    kind: Literal["gin", "gat"] = "gin"
    """gin: pretrain-gnns' GIN; gat: torch-geometric's graph attention (GATv2), for which no published weights are read."""
    num_layers: PositiveInt = 5
    """Graph convolutions."""
    hidden_size: PositiveInt = 300
    """Width of an atom's embedding."""
    max_atoms: PositiveInt = 256
    """Larger molecules are skipped and counted."""
    init_from: Path | None = None
    """Weights: a state dict (.pth, .pt; read without executing it) or safetensors; null starts from random weights."""
    placement: Placement = "replicate"
    """Where parameters live: on every rank, or sharded over all ranks of the job (ZeRO-3; pays only when trained)."""
    lora: EncoderLoraConfig = Field(default_factory=EncoderLoraConfig)
    """Updates of both matrices of every convolution, in stages with `molecule: lora`."""

    @model_validator(mode="after")
    def _gat_starts_alone(self) -> GinConfig:
        if self.kind == "gat" and self.init_from is not None:
            raise ValueError("init_from holds a GIN and kind is gat; set kind: gin, or leave init_from out")
        return self


class Esm2Config(Section):
    """The protein encoder: ESM-2 (Lin et al. 2023)."""

    num_layers: PositiveInt = 6
    """Transformer layers."""
    hidden_size: PositiveInt = 320
    """Width of a residue's embedding."""
    num_attention_heads: PositiveInt = 20
    """Attention heads."""
    max_residues: PositiveInt = 1022
    """Residues that are kept of a protein; the rest is cut off and counted."""
    activation_checkpointing: bool = True
    """Recompute each layer in the backward pass."""
    init_from: Path | None = None
    """Weights: an official fair-esm .pt (read without executing it) or a Hugging Face EsmModel folder."""
    placement: Placement = "replicate"
    """Where parameters live: on every rank, or sharded over all ranks of the job (ZeRO-3)."""
    lora: EsmLoraConfig = Field(default_factory=EsmLoraConfig)
    """Updates in stages with `protein: lora`."""
    cache: Path | None = None
    """Folder for residue embeddings of a frozen encoder, keyed by its weights; shared by ranks and runs. null: no cache."""
    cache_gib: float = Field(100.0, gt=0)
    """Nothing is added to the cache beyond this size."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Esm2Config:
        if self.hidden_size % self.num_attention_heads or (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} needs heads of an even size; change num_attention_heads "
                f"{self.num_attention_heads}"
            )
        return self


class AdaptorConfig(Section):
    """What turns encoder rows into embeddings of the language model."""

    kind: Literal["linear", "mlp", "resampler"] = "mlp"
    """linear: one matrix, as BioMedGPT-10B; mlp: two layers; resampler: learned queries attend to the rows of an item."""
    num_queries: PositiveInt = 32
    """Embeddings that the resampler makes of each item."""


class StageConfig(Section):
    """One stage of the alignment: what is trained, how fast, on what, how long. Adaptors are trained in every stage."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    """Name of the stage and of its folder in the run folder."""
    steps: PositiveInt
    """Optimizer steps."""
    molecule: Training = "frozen"
    """Molecule encoder: frozen, its LoRA trained, or trained."""
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


class AlignSource(Section):
    """One dataset of questions on molecules and proteins."""

    path: Path
    """Folder of one split, made by `megabiomed dataset build`."""
    weight: float = Field(1.0, gt=0)
    """Share of the samples, relative to the other sources."""


class AlignConfig(Section):
    """The multimodal part of an alignment run."""

    molecule: GinConfig = Field(default_factory=GinConfig)
    protein: Esm2Config = Field(default_factory=Esm2Config)
    molecule_adaptor: AdaptorConfig = Field(default_factory=AdaptorConfig)
    protein_adaptor: AdaptorConfig = Field(default_factory=AdaptorConfig)
    train: list[AlignSource] = Field(default_factory=list)
    """Training splits with their shares."""
    validation: Path | None = None
    """Held-out split for the validation loss."""
    replay: Path | None = None
    """Token store for `text_share`."""
    language_model: Path | None = None
    """Checkpoint of a pretraining run to start from; null takes model.init_from or random weights."""
    stages: list[StageConfig] = Field(min_length=1)
    """The stages, in order; each starts from the checkpoint of the one before."""
    encoder_ranks: list[NonNegativeInt] | None = Field(None, min_length=1)
    """World ranks that encode; null: all, which is the fastest. The others hold no weights of frozen, replicated encoders."""
    dedicated_encoder_ranks: NonNegativeInt = 0
    """Ranks with encoders, adaptors and nothing else: the last of the world, beside those of the language model, which then
    hold nothing of the encoders. 0: encoders share the ranks of the language model, which is the fastest."""
    watchdog_s: float = Field(300.0, gt=0)
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
        if self.molecule.kind == "gat" and self.uses_lora("molecule"):
            raise ValueError(
                "molecule: lora is for kind gin; set the stage's molecule to full, or molecule.kind to gin"
            )
        if self.protein.cache is not None and self.protein.placement == "zero3":
            raise ValueError(
                "protein.cache with placement zero3: a rank that finds its proteins in the cache would not join the gathers; "
                "set align.protein.placement=replicate, which a frozen encoder wants anyway"
            )
        return self

    def uses_lora(self, modality: str) -> bool:
        """Whether any stage trains LoRA matrices of this encoder; they start as no change."""
        return any(getattr(stage, modality) == "lora" for stage in self.stages)


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
        lengths = [stage.get("steps", 1) for stage in stages if isinstance(stage, dict)]
        counted = [length for length in lengths if isinstance(length, int)]
        return {**values, "train": {**train, "steps": sum(counted) or 1}}

    @model_validator(mode="after")
    def _adapters_belong_to_a_stage(self) -> AlignRunConfig:
        if self.lora is not None and all(stage.language_model != "lora" for stage in self.align.stages):
            raise ValueError("section lora is given and no stage trains adapters; set a stage's language_model: lora")
        return self

    @property
    def ranks_beside(self) -> int:
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
