"""Find out what a step of a run read, and which of its documents has the largest loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from megabiomed.checkpoint.catalog import list_checkpoints
from megabiomed.checkpoint.locate import locate
from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.checkpoint.uses import RECORD
from megabiomed.config import RunConfig
from megabiomed.config.align import AlignRunConfig
from megabiomed.config.finetune import FinetuneRunConfig
from megabiomed.data.loader import SampleLoader, open_training_data
from megabiomed.data.progress import verdict
from megabiomed.data.quarantine import QUARANTINE, add_entry, read_entries
from megabiomed.data.steps import RunSteps, StepSamples
from megabiomed.ground.errors import CheckpointError, ConfigError, DataError
from megabiomed.runs.effective import FILE
from megabiomed.runs.explain.found import Explanation, Piece
from megabiomed.runs.history import reached_step, read_events, run_steps
from megabiomed.runs.kinds import kind_of_config, part_run, read_run
from megabiomed.tokenizer.files import open_in, open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

JUDGED = ("non_finite", "spike")
_BEGINNING = 24  # tokens
_LISTS = ("papers", "windows", "claim")


def explain(path: Path, step: int, attempt: int | None, losses: bool, say: Callable[[str], None]) -> Explanation:
    """Documents and losses of a step, the worst first.

    Args:
        path: folder of a run, or of a stage of an alignment.
        attempt: of a step that was computed more than once, from 1; None: the one of the newest event, else the last.
        losses: compute them, in this process.
        say: told about the choice and the progress.

    Raises:
        DataError: no run, no such step or attempt, or data that are not those of the run any more.
    """
    folder, config, part = _run_of(path)
    steps, events = run_steps(config), _events_of(folder, step)
    chosen, note = steps.choose(step, attempt or _attempt_of(steps, step, events))
    if note:
        say(note)
    if step > (reached := reached_step(folder)):
        say(f"the run has come to step {reached}: what follows is what step {step} would read")
    loader = _open_loader(config, folder, part)
    event = next((held for held in reversed(events) if held.get("samples") == [chosen.first, chosen.size]), None)
    found = Explanation(str(folder), step, chosen.first, chosen.size, chosen.stands)
    found.event = None if event is None else {key: value for key, value in event.items() if key not in _LISTS}
    found.pieces = list(_pieces(loader, chosen, _tokenizer(folder, loader), _quarantined(folder, loader)))
    if losses:
        found.note = _add_losses(found, config, steps, chosen, loader, say)
    return found


def put_into_quarantine(found: Explanation, paper: str | None, reason: str | None) -> str:
    """Add a paper of the step to quarantine.jsonl of the run; returns a line that says so.

    Args:
        paper: None: the one with the worst loss.

    Raises:
        DataError: the step has no such paper, or no losses tell the worst.
    """
    if paper is None and found.checkpoint is None:
        raise DataError("the worst paper is not known without losses", do="name the paper, or leave --no-loss out")
    names = [piece.paper_id for piece in found.pieces]
    chosen = paper if paper is not None else names[0]
    if chosen not in names:
        raise DataError(f"step {found.step} has not read the paper", got=chosen, do="take one that the command lists")
    added = add_entry(found.folder, chosen, reason or f"step {found.step}")
    file = found.folder / QUARANTINE
    return (
        f"{file}: {chosen} is masked out of the loss from the next start on"
        if added
        else f"{file} has {chosen} already"
    )


def _run_of(path: Path) -> tuple[Path, RunConfig, RunConfig]:
    """Run folder, its configuration, and that of the whole run."""
    located = locate(path).expect(RECORD)
    folder = located.run
    whole = folder if folder is None or (folder / FILE).is_file() else folder.parent
    if folder is None or whole is None or not (whole / FILE).is_file():
        raise DataError(f"{path} holds no run that was started", do="give the folder of a run, or of a stage")
    config = read_run(str(whole / FILE), [f"run_dir={whole}"])
    return folder, part_run(config, folder.name if whole != folder else None), config


def _events_of(folder: Path, step: int) -> list[dict[str, Any]]:
    return [event for event in read_events(folder) if event["event"] in JUDGED and event.get("step") == step]


def _attempt_of(steps: RunSteps, step: int, events: list[dict[str, Any]]) -> int | None:
    """The attempt that the newest event tells of."""
    for event in reversed(events):
        for number, held in enumerate(steps.attempts(step) if step > 0 else [], 1):
            if [held.first, held.size] == event.get("samples"):
                return number
    return None


def _open_loader(config: RunConfig, folder: Path, whole: RunConfig) -> SampleLoader:
    """The samples of a run, as it reads them."""
    if isinstance(whole, AlignRunConfig):
        from megabiomed.samples.multimodal.loader import AlignLoader
        from megabiomed.samples.multimodal.store import QaStore

        if folder.name not in whole.parts:
            raise DataError(f"{folder} is an alignment", do=f"give the folder of a stage: {', '.join(whole.parts)}")
        stage = whole.align.stages[whole.parts.index(folder.name)]
        stores = [QaStore(source.path) for source in whole.align.train]
        return AlignLoader(stores, whole.align, config.data, config.seed, stage.text_share)
    if isinstance(config, FinetuneRunConfig):
        from megabiomed.samples.questions.loader import FinetuneLoader
        from megabiomed.samples.questions.sources import opened

        questions, _, _ = opened(config)
        return FinetuneLoader(questions, config.finetune, config.data, config.seed)
    if kind_of_config(config).name != "pretrain":
        raise ConfigError("steps of this kind of run cannot be explained", got=config.kind, expected="a shipped kind")
    return open_training_data(config.data, config.seed)


def _tokenizer(folder: Path, loader: SampleLoader) -> Tokenizer | None:
    """That of the newest checkpoint, or of the token stores; None where neither is there."""
    for item in list_checkpoints(folder / "checkpoints"):
        if item.committed and (file := Checkpoint.open(item.path).tokenizer) is not None:
            return open_tokenizer(file)
    stores = getattr(loader, "stores", [])
    return open_in(stores[0].path) if stores else None


def _quarantined(folder: Path, loader: SampleLoader) -> set[tuple[int, int]]:
    """(source, document) of all that is listed now."""
    names = list(read_entries(folder / QUARANTINE))
    sources = enumerate(loader.documents if names else [])
    return {(source, document) for source, documents in sources for _, document in documents.find(names)}


def _pieces(
    loader: SampleLoader, chosen: StepSamples, tokenizer: Tokenizer | None, quarantined: set[tuple[int, int]]
) -> Iterator[Piece]:
    """The pieces of all samples, in the order of the batch."""
    ids = loader.order.sample_ids(chosen.first, chosen.size).tolist()
    for sample, (source, epoch, window) in enumerate(ids, chosen.first):
        documents = loader.documents[source]
        for part in documents.parts(window):
            origin, start = documents.origin(part.document), documents.beginning(part.document, _BEGINNING)
            yield Piece(
                sample, source, epoch, window, str(origin["paper_id"]), str(origin.get("title") or ""),
                begins="" if tokenizer is None else " ".join(tokenizer.decode(start).split()),
                tokens=(part.first, part.first + part.size), place=part.place,
                quarantined=(source, part.document) in quarantined,
            )  # fmt: skip


def _add_losses(
    found: Explanation, config: RunConfig, steps: RunSteps, chosen: StepSamples, loader: SampleLoader,
    say: Callable[[str], None],
) -> str:  # fmt: skip
    """Fill in the losses, and sort by them; returns why there are none."""
    from megabiomed.evaluate.single import load_alone
    from megabiomed.runs.explain.losses import fill_in_losses

    if any(hasattr(store, "modalities") for store in getattr(loader, "stores", [])):
        return "losses of questions with molecules and proteins are not computed here"
    checkpoint = _checkpoint(config.folder, steps, chosen)
    if checkpoint is None:
        return f"there is no checkpoint before step {chosen.step} on its way, so there are no losses"
    check = verdict(checkpoint.trainer.data, loader.identity, checkpoint.step)
    if not check.identical:
        raise DataError(
            "the data are not those of the run: the step read other samples", got="; ".join(check.lines[1:]),
            do="bring the token stores and settings back that the run had",
        )  # fmt: skip
    say(f"losses: with the weights of step {checkpoint.step}, {chosen.step - 1 - checkpoint.step} steps before")
    with torch.no_grad():
        _, engine = load_alone(checkpoint.path)
        fill_in_losses(engine, loader, found.pieces, say)
    found.checkpoint = checkpoint.step
    found.pieces.sort(key=lambda piece: -piece.badness)
    return ""


def _checkpoint(folder: Path, steps: RunSteps, chosen: StepSamples) -> Checkpoint | None:
    """The newest checkpoint before an attempt that its weights came from."""
    for item in list_checkpoints(folder / "checkpoints"):
        if not item.committed or item.step >= chosen.step or item.step < steps.begins_after:
            continue
        try:
            held = Checkpoint.open(item.path)
        except CheckpointError:
            continue
        if held.trainer.data.next_sample == steps.path(chosen, item.step)[0].first:
            return held
    return None
