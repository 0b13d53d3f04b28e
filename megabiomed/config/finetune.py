"""Every key of a fine-tuning run, with its meaning, unit and default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config.base import Section
from megabiomed.config.schema import RunConfig, SourceConfig


class QuestionSource(Section):
    """Questions of one dataset; template, split, limit and chat are those of a file, a store was built with its own."""

    path: Path
    """File of questions in a published layout, or a store made by `megabiomed questions build`."""
    template: str | None = None
    """Prompt template of a file (`megabiomed questions inspect --template` shows it); null takes the dataset's own."""
    split: Literal["auto", "all", "train", "test"] = "auto"
    """Part of a PubMedQA file: auto leaves out the test ids if test_ground_truth.json is in the same folder."""
    limit: PositiveInt | None = None
    """Largest number of questions of a file, the first ones; null takes all."""
    chat: bool = False
    """Ask a file's questions as conversations, by the chat template of the model's tokenizer; for models made for chat."""
    repeat: float = Field(1.0, gt=0)
    """How often each question is seen in one epoch."""


class FinetuneConfig(Section):
    """Instruction fine-tuning on questions: loss on the answers only."""

    start_from: Path | None = None
    """Run folder, checkpoint of any topology, or Hugging Face folder to start from; null takes model.init_from."""
    train: list[QuestionSource] = Field(min_length=1)
    """Questions to train on."""
    validation: QuestionSource | None = None
    """Held-out questions for the validation loss; refused where one of them is trained on."""
    replay: list[SourceConfig] = Field(default_factory=list)
    """Token stores of general or biomedical text, mixed in against forgetting."""
    replay_share: float = Field(0.0, ge=0, lt=1)
    """Share of the samples that come from `replay`."""

    @model_validator(mode="after")
    def _replay_is_there(self) -> FinetuneConfig:
        # Either alone has no effect, and looks as if it had one.
        if bool(self.replay) != (self.replay_share > 0):
            raise ValueError(
                f"replay_share {self.replay_share} and {len(self.replay)} stores in replay do not fit; set both or neither"
            )
        return self


class FinetuneRunConfig(RunConfig):
    """One fine-tuning run: a training run whose data come from `finetune`. An epoch is one pass over the questions."""

    finetune: FinetuneConfig

    @model_validator(mode="after")
    def _one_source_each(self) -> FinetuneRunConfig:
        # `data` still says how windows are made and read; only where they come from is said elsewhere.
        if self.data.train or self.data.validation:
            raise ValueError(
                "data.train and data.validation belong to pretraining; use finetune.train, .validation, .replay"
            )
        if self.finetune.start_from is not None and self.model.init_from is not None:
            raise ValueError("finetune.start_from and model.init_from both name a model to start from; give one")
        return self

    @property
    def start(self) -> Path | None:
        """See the base class."""
        return self.finetune.start_from
