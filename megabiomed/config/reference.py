"""Writes docs/configuration.md from the configuration types: `python -m megabiomed.config.reference`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from megabiomed.config.align import AlignConfig, AlignmentStageConfig
from megabiomed.config.base import Section
from megabiomed.config.evaluation import EvalTaskConfig
from megabiomed.config.finetune import FinetuneConfig, QuestionSource
from megabiomed.config.lora import LoraConfig
from megabiomed.config.modalities import ModalityConfig
from megabiomed.config.rope import RopeScaling
from megabiomed.config.schema import RunConfig

_HEAD = """# Configuration

Made from the types in `megabiomed/config/` (`schema.py` and others) by `make docs`; do not edit.

A run is one YAML file. `megabiomed pretrain RUN.yaml optimizer.lr=1e-4 parallel.zero_stage=3` overrides single keys.
`model:` may be the name of a file in `configs/models`, or a mapping with `base: NAME` and the keys to change.
Unknown keys are errors. The effective configuration is printed at the start and stored as `config.yaml` in the run folder.
"""


def reference() -> str:
    """The page as Markdown."""
    tasks = [*_section("eval.tasks", "eval.tasks.N.", EvalTaskConfig)]
    align = [*_section("align (only for `megabiomed align`)", "align.", AlignConfig)]
    added = [*_section("align.modalities", "align.modalities.NAME.", ModalityConfig)]
    stages = [*_section("align.stages", "align.stages.N.", AlignmentStageConfig)]
    rope = [*_section("model.rope_scaling (or null)", "model.rope_scaling.", RopeScaling)]
    lora = [*_section("lora (or null)", "lora.", LoraConfig)]
    finetune = [*_section("finetune (only for `megabiomed finetune`)", "finetune.", FinetuneConfig)]
    questions = [*_section("finetune.train", "finetune.train.N.", QuestionSource)]
    return "\n".join(
        [_HEAD, *_section("Run", "", RunConfig), *rope, *tasks, *lora, *align, *added, *stages, *finetune, *questions]
    )


def _section(title: str, prefix: str, section: type[Section]) -> Iterator[str]:
    summary = (section.__doc__ or "").strip().splitlines()[0]
    yield f"## {title}\n\n{summary}\n"
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    # Plain keys in one table, then every inner section with a table of its own.
    inner = []
    for name, field in section.model_fields.items():
        kind = _section_class(field)
        if isinstance(kind, type) and issubclass(kind, Section):
            inner.append((name, kind))
            continue
        yield f"| `{prefix}{name}` | {_type(kind)} | {_default(field)} | {_cell(field.description or '')} |"
    yield ""
    for name, kind in inner:
        yield from _section(f"{prefix}{name}", f"{prefix}{name}.", kind)


def _section_class(field: FieldInfo) -> Any:
    """The annotation of a key, or the class of its default where the class depends on the values."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return type(value) if isinstance(value, Section) else field.annotation


def _type(annotation: Any) -> str:
    # As a reader would write the types, not as Python names them.
    text = str(annotation)
    for noise in (
        "typing.",
        "pathlib.",
        "megabiomed.config.schema.",
        "megabiomed.config.align.",
        "megabiomed.config.modalities.",
        "megabiomed.encoders.esm2.config.",
        "megabiomed.config.evaluation.",
        "megabiomed.config.finetune.",
        "megabiomed.config.lora.",
        "megabiomed.config.rope.",
        "<class '",
        "'>",
    ):
        text = text.replace(noise, "")
    text = re.sub(r"Annotated\[int, Gt\(gt=(\d+)\)\]", r"int > \1", text)
    text = re.sub(r"Annotated\[int, Ge\(ge=(\d+)\)\]", r"int >= \1", text)
    text = re.sub(r"Annotated\[(\w+), SerializeAsAny\(\)\]", r"\1", text)
    text = text.replace("Literal[", "one of [").replace("NoneType", "null").replace("None", "null")
    return f"`{text}`".replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    print(reference(), end="")
