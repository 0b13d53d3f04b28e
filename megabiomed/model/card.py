"""The model card of an export, README.md: what the run and the runs before it recorded, and the licence of their base.

Format: Hugging Face's model cards (https://huggingface.co/docs/hub/model-cards), a YAML header and Markdown.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.uses import MODEL
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.config.kinds import stored_run
from megabiomed.config.schema import RunConfig
from megabiomed.config.yaml_text import read_yaml, write_yaml
from megabiomed.data.store import TokenStore
from megabiomed.ground.errors import UserError
from megabiomed.ground.files import inside, write_atomic
from megabiomed.model.certificate import Certificate
from megabiomed.model.frozen import same_start
from megabiomed.model.registry import architecture_of

_LOG = logging.getLogger(__name__)
CARD = "README.md"
_LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
_LONGEST = 200  # characters of a value that another card gives
_LARGEST = 1 << 20  # bytes of a card or a licence


@dataclass(frozen=True)
class Trained:
    """One run of those that made a model."""

    config: RunConfig
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Origin:
    """How a model came about.

    Attributes:
        runs: the newest first.
        base: the Hugging Face folder that the first one began with; None for random weights.
        lost: an earlier run that is gone, so that nobody can say more.
    """

    runs: list[Trained]
    base: Path | None = None
    lost: Path | None = None


def origin_of(checkpoint: Checkpoint) -> Origin:
    """The run of a checkpoint, and those that it was started from one after the other.

    Raises:
        UserError: a configuration is not readable.
    """
    runs: list[Trained] = []
    seen: set[Path] = set()
    while True:
        seen.add(checkpoint.path.resolve())
        config = stored_run(checkpoint.config_text, str(checkpoint.path))
        runs.append(Trained(config, checkpoint))
        start = same_start(checkpoint, _start_of(config))
        if start is None:
            return Origin(runs, config.model.init_from)
        located = locate(start)
        if located.is_hugging_face:
            return Origin(runs, start)
        try:
            checkpoint = located.expect(MODEL).open()
        except UserError:
            return Origin(runs, lost=start)
        # Runs that name each other would be followed for ever.
        if checkpoint.path.resolve() in seen:
            return Origin(runs, lost=start)


def _start_of(config: RunConfig) -> Path | None:
    if isinstance(config, FinetuneRunConfig):
        return config.finetune.start_from
    return config.align.language_model if isinstance(config, AlignRunConfig) else None


def write_card(
    folder: Path,
    name: str,
    checkpoint: Checkpoint,
    certificate: Certificate | None = None,
    library: str = "transformers",
) -> None:
    """Write README.md into an exported folder, and copy the licence files of the base beside it.

    Where the configuration of a run cannot be read (a newer release wrote it), the card is left out with a warning.

    Args:
        name: of the model, for the title.
        certificate: of the export.
        library: that loads the folder, by its name at Hugging Face.
    """
    try:
        origin = origin_of(checkpoint)
    except UserError as error:
        _LOG.warning("no model card is written: %s", error)
        return
    licence = _licence(origin.base)
    header = {**licence, "library_name": library, "pipeline_tag": "text-generation"}
    if origin.base is not None:
        header["base_model"] = _name_of(origin.base)
    text = "\n".join(_lines(name, origin, licence, certificate))
    write_atomic(folder / CARD, f"---\n{write_yaml(header)}---\n\n{text}\n")
    for file in _licence_files(origin.base):
        with suppress(UserError):  # a link that leads out of the folder
            shutil.copyfile(inside(file.parent, file.name), folder / file.name)


def _name_of(base: Path) -> str:
    """Of a folder, or of the model of a snapshot in a hub cache: `models--a--b/snapshots/<commit>` is `a/b`."""
    if base.parent.name == "snapshots":
        return base.parent.parent.name.removeprefix("models--").replace("--", "/", 1)
    return base.name


def _licence_files(base: Path | None) -> list[Path]:
    found = [file for pattern in _LICENCES for file in sorted(base.glob(pattern))] if base is not None else []
    return [file for file in found if file.is_file() and file.stat().st_size <= _LARGEST]


def _licence(base: Path | None) -> dict[str, str]:
    """The keys of the base's card that state its licence; none where it has no readable card."""
    if base is None or not (base / CARD).is_file() or (base / CARD).stat().st_size > _LARGEST:
        return {}
    with suppress(UserError, UnicodeDecodeError):
        text = inside(base, CARD).read_text(encoding="utf-8")
        _, opened, rest = text.partition("---\n")
        held: Any = read_yaml(rest.partition("\n---")[0], str(base / CARD)) if opened else None
        keys = ("license", "license_name", "license_link")
        given = {key: held.get(key) for key in keys} if isinstance(held, dict) else {}
        return {key: " ".join(value.split())[:_LONGEST] for key, value in given.items() if isinstance(value, str)}
    return {}


def _lines(name: str, origin: Origin, licence: dict[str, str], certificate: Certificate | None) -> Iterator[str]:
    newest = origin.runs[0]
    model = newest.config.model
    parameters = sum(map(prod, architecture_of(model).shapes.values()))
    yield f"# {name}\n"
    yield f"Exported by megabiomed from step {newest.checkpoint.step:,} of the run `{newest.config.name}`. This page says what"
    yield "the runs recorded. It does not say how good the model is, and the model was not tested for use with patients.\n"
    yield f"- Architecture: {model.kind}, {parameters:,} parameters, {model.num_hidden_layers} layers"
    yield f"- Longest sequence: {model.max_position_embeddings:,} tokens"
    yield f"- Base: {_base(origin)}"
    yield f"- Licence of the base: {_stated(origin, licence)}\n"
    for number, run in enumerate(reversed(origin.runs), start=1):
        yield f"## Run {number}: {run.config.name}\n"
        yield from _training(run)
        yield ""
        yield from _data(run.config)
        yield ""
    if certificate is not None:
        yield "## Certificate\n"
        yield from (f"- {line}" for line in certificate.lines())
        yield "- all values: `certificate.json`"


def _base(origin: Origin) -> str:
    if origin.lost is not None:
        return f"the run `{origin.lost.name}`, whose checkpoints are not at their place any more"
    return f"`{_name_of(origin.base)}`" if origin.base is not None else "none; trained from random weights"


def _stated(origin: Origin, licence: dict[str, str]) -> str:
    if origin.base is None and origin.lost is None:
        return "there is no base"
    files = ", ".join(f"`{file.name}`" for file in _licence_files(origin.base))
    stated = ", ".join(licence.values())
    if not stated and not files:
        return "not stated by its folder; find it out before this model is passed on"
    return " ".join(filter(None, [stated, f"({files})" if files else ""]))


def _training(run: Trained) -> Iterator[str]:
    config, trainer = run.config, run.checkpoint.trainer
    optimizer, windows = config.optimizer, config.data
    topology = ", ".join(f"{key} {value}" for key, value in trainer.topology.model_dump(exclude_none=True).items())
    yield f"- Steps: {run.checkpoint.step:,}; tokens read, padding included: {trainer.tokens_consumed:,}"
    yield f"- Batch: {windows.global_batch_size:,} windows of {windows.seq_length:,} tokens; seed {trainer.seed}"
    yield f"- Optimizer: {optimizer.kind}, peak learning rate {optimizer.lr:g}, schedule {optimizer.schedule}"
    yield f"- Trained: {_trained(run)}"
    yield f"- Precision: {config.train.precision}; ranks: {topology or 'not noted'}; megabiomed {trainer.megabiomed or ''}"


def _trained(run: Trained) -> str:
    if isinstance(run.config, AlignRunConfig):
        stages = run.config.align.stages
        return "adaptors; " + ", ".join(f"{stage.name}: language model {stage.language_model}" for stage in stages)
    adapters = run.checkpoint.trainer.lora
    return "all weights" if adapters is None else f"adapters of rank {adapters.rank}"


def _data(config: RunConfig) -> Iterator[str]:
    """A table of what a run read."""
    yield "| data | share | documents | tokens |"
    yield "|---|---|---|---|"
    for source in config.data.train:
        yield _store(source.path, f"{source.weight:g}")
    if isinstance(config, FinetuneRunConfig):
        for questions in config.finetune.train:
            yield f"| questions `{questions.path.name}` | {questions.repeat:g} times an epoch | | |"
        for source in config.finetune.replay:
            yield _store(source.path, f"{source.weight:g} of the replay, {config.finetune.replay_share:g} of all")
    if isinstance(config, AlignRunConfig):
        for answers in config.align.train:
            yield f"| answers `{answers.path.name}` | {answers.weight:g} | | |"
        if config.align.replay is not None:
            yield _store(config.align.replay, "text of the stages")


def _store(path: Path, share: str) -> str:
    """The row of a token store; one that has moved is named alone."""
    named = f"`{path.parent.name}/{path.name}`"
    try:
        store = TokenStore.open(path)
    except UserError:
        return f"| {named} | {share} | not there any more | |"
    return f"| {named} | {share} | {store.num_documents:,} | {store.num_tokens:,} |"
