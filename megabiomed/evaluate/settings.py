"""What an evaluation is asked to do, and the identity that decides whether an unfinished one goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from megabiomed.config.base import Section, parse
from megabiomed.evaluate.contamination import Policy
from megabiomed.ground.errors import ConfigError
from megabiomed.ground.files import sha256_bytes
from megabiomed.samples.questions.readers import Split, default_split

Mode = Literal["choice", "generate"]


class TaskSettings(Section):
    """One set of questions."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")
    """Name in tables and file names."""
    path: Path
    """File of questions."""
    split: Split = "all"
    """Part of a PubMedQA file with its ground truth."""
    template: str | None = None
    """Prompt template; null takes the dataset's own."""
    train: Path | None = None
    """File that few-shot examples come from; null takes the train split of the same PubMedQA file."""


class EvaluateSettings(Section):
    """One call of `megabiomed evaluate`."""

    model: Path
    base: Path | None = None
    tasks: list[TaskSettings] = Field(default_factory=list)
    perplexity: dict[str, Path] = Field(default_factory=dict)
    samples: PositiveInt = 64
    seq_length: PositiveInt = 2048
    mode: Mode = "choice"
    shots: int = Field(0, ge=0)
    seed: int = 0
    limit: PositiveInt | None = None
    contaminated: Policy = "mark"
    stores: list[Path] = Field(default_factory=list)
    max_new_tokens: PositiveInt = 32
    score_tokenizer: Path | None = None
    chat: bool = False
    window: PositiveInt = 4096
    precision: Literal["fp32", "bf16"] = "fp32"
    output: Path | None = None
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1

    def identity(self, model: str, asked: list[Any]) -> str:
        """Hash of all that decides the predictions; the topology, the places of output and base, and
        the tokenizer of scores do not.

        Args:
            model: identity of the weights.
            asked: the questions of all tasks, as plain values.
        """
        left_out = {
            "output",
            "base",
            "tensor_parallel_size",
            "pipeline_parallel_size",
            "model",
            "window",
            "score_tokenizer",
        }
        values = self.model_dump(mode="json", exclude=left_out | (set() if self.chat else {"chat"}))
        return sha256_bytes(json.dumps([model, values, asked], sort_keys=True).encode())


def parse_tasks(tasks: list[str], templates: list[str], train: list[str]) -> list[TaskSettings]:
    """Tasks from `NAME=PATH[:SPLIT]`, with templates `NAME=TEMPLATE` and example files `NAME=PATH`."""
    chosen, examples = pairs(templates, "--template"), pairs(train, "--train")
    found = []
    for name, value in pairs(tasks, "--task").items():
        path, split = Path(value), None
        stem, _, last = value.rpartition(":")
        if stem and last in ("all", "train", "test"):
            path, split = Path(stem), last
        values = {"name": name, "path": path, "split": split or default_split(path), "template": chosen.pop(name, None)}
        task = parse(TaskSettings, {**values, "train": examples.pop(name, None)}, f"--task {name}")
        assert isinstance(task, TaskSettings)
        found.append(task)
    for option, left in (("--template", chosen), ("--train", examples)):
        if left:
            raise ConfigError(
                f"{option} names no task", got=next(iter(left)), expected=", ".join(t.name for t in found)
            )
    return found


def pairs(values: list[str], option: str) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping."""
    found: dict[str, str] = {}
    for text in values:
        name, separator, value = text.partition("=")
        if not (separator and name and value) or name in found:
            raise ConfigError(f"{option} cannot be read", got=repr(text), expected="NAME=VALUE, each name once")
        found[name] = value
    return found
