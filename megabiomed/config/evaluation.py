"""What a training run evaluates between its steps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from megabiomed.config.base import Section


class EvalTaskConfig(Section):
    """One small set of questions."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")
    """Name in the metrics: evaluation/NAME_accuracy, evaluation/NAME_answer_loss."""
    path: Path
    """File of questions in a published layout."""
    split: Literal["auto", "all", "train", "test"] = "auto"
    """Part of a PubMedQA file: auto takes the official test ids if test_ground_truth.json is in the same folder."""
    template: str | None = None
    """Prompt template; null takes the dataset's own."""


class EvalConfig(Section):
    """Questions and perplexities in the training loop (docs/evaluation.md); data order and random numbers do not change."""

    every: int = Field(0, ge=0)
    """Steps between evaluations, with one before the first step; 0 evaluates only at the end."""
    tasks: list[EvalTaskConfig] = Field(default_factory=list)
    """Sets of questions; options are scored by log-likelihood."""
    limit: PositiveInt = 200
    """Questions of each set, the first ones."""
    perplexity: dict[str, Path] = Field(default_factory=dict)
    """Token stores by domain: general text in addition to biomedical text shows what is forgotten."""
    samples: PositiveInt = 32
    """Windows of each store, the first ones."""

    def absent(self) -> list[str]:
        """One line for each file or store that does not exist yet."""
        places = {f"eval.tasks {task.name}": task.path for task in self.tasks}
        places |= {f"eval.perplexity.{name}": path for name, path in self.perplexity.items()}
        return [f"{key}: {path}, not there yet" for key, path in places.items() if not path.exists()]

    @model_validator(mode="after")
    def _says_what(self) -> EvalConfig:
        if self.every and not (self.tasks or self.perplexity):
            raise ValueError("eval.every is set, but there is nothing to evaluate; add eval.tasks or eval.perplexity")
        twice = [name for name, count in Counter(task.name for task in self.tasks).items() if count > 1]
        if twice:
            raise ValueError(
                f"two of eval.tasks are called {twice[0]}: their figures would overwrite each other; rename one"
            )
        return self
