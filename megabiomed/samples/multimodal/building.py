"""From files of questions to splits on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from megabiomed.config.base import Section, parse
from megabiomed.config.modalities import MODALITIES
from megabiomed.encoders.modality import ItemError, Modality, modality_of
from megabiomed.ground.errors import ConfigError, DataError
from megabiomed.samples.fields import text_of
from megabiomed.samples.multimodal.items import Items
from megabiomed.samples.multimodal.prompts import encode_pieces, end_of_answer, find_template, render
from megabiomed.samples.multimodal.records import MultimodalQuestion, read_records
from megabiomed.samples.multimodal.splits import Split, leakage, split_records
from megabiomed.samples.multimodal.store import RECORD_FIELDS, table_fields
from megabiomed.samples.rejects import REJECTS, Reject, Unusable, counts, write_rejects
from megabiomed.samples.store import RECORDS, Table, check_new, write_store
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer

LongAnswers = Literal["cut", "skip"]


@dataclass(frozen=True)
class BuildSettings:
    """How records become samples; stored in the manifest.

    Attributes:
        limits: keys of the modalities' `limits`, by name of the modality.
        added: references to modalities besides the shipped ones.
        layout: of the files; None takes the one of each file's suffix.
        max_answer_tokens: of a longer answer only the beginning is kept, or nothing.
        long_answers: "cut" keeps the beginning, without EOS, so that no model learns to stop there; "skip" leaves the
            record out.
        seconds_per_item: a record with an item whose features take longer is left out.
    """

    template: str = "biomedgpt"
    limits: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    added: tuple[str, ...] = ()
    layout: str | None = None
    max_answer_tokens: int = 512
    long_answers: LongAnswers = "cut"
    seconds_per_item: float = 10.0

    def modalities(self) -> dict[str, Modality[Any, Any]]:
        """All modalities of the dataset by registered name or reference.

        Raises:
            ConfigError: there is no such modality, or limits are given for one that is not in the dataset.
        """
        found = {kind: modality_of(kind) for kind in (*MODALITIES.names(), *self.added)}
        names = [modality.name for modality in found.values()]
        unknown = [name for name in self.limits if name not in names]
        if unknown:
            raise ConfigError("there is no such modality", got=unknown[0], expected=", ".join(names))
        return found

    def limits_of(self, modality: Modality[Any, Any]) -> Section:
        """The checked limits of a modality."""
        return parse(modality.limits, dict(self.limits.get(modality.name, {})), f"the limits of {modality.name}")

    def items(self) -> Items:
        """Where the features of all items come from."""
        kinds = self.modalities()
        limits = {modality.name: self.limits_of(modality) for modality in kinds.values()}
        return Items(kinds, limits, self.seconds_per_item)


class _Builder:
    def __init__(self, tokenizer: Tokenizer, settings: BuildSettings, items: Items) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self.items = items
        self.template = find_template(settings.template)
        self.kinds = settings.modalities()
        self.modalities = {modality.name: modality for modality in self.kinds.values()}
        self.limits = {name: settings.limits_of(modality) for name, modality in self.modalities.items()}
        self.records = Table.empty(RECORD_FIELDS)
        self.tables = {name: Table.empty(table_fields(modality)) for name, modality in self.modalities.items()}
        self.seen: dict[tuple[str, str], tuple[int, int]] = {}
        self.changed: Counter[str] = Counter()

    def add(self, record: MultimodalQuestion) -> Reject | None:
        """Append a record, or say why it cannot be a sample."""
        try:
            self._add(record)
        except ItemError as error:
            return Reject("", record.ident, f"{error.modality} {error.reason}", str(error))
        except Unusable as error:
            return error.reject("", record.ident)
        except DataError as error:
            return Reject("", record.ident, "placeholder" if "placeholder" in str(error) else "other", str(error))
        return None

    def _add(self, record: MultimodalQuestion) -> None:
        answer = text_of(record.answer, "answer").strip()
        prompt = render(self.template, record, list(self.modalities.values()))
        placed = [self._item(name, text) for name, text in prompt.items]
        ids: list[int] = []
        for number, piece in enumerate(encode_pieces(self.template, prompt, self.tokenizer)):
            ids += piece
            # A negative id marks the place of an item, which the loader widens to its embeddings.
            ids += [-1 - number] if number < len(placed) else []
        numbers = {name: number for number, name in enumerate(self.modalities)}
        said = self._answer_ids(answer)
        self.records.append(
            ident=record.ident, question=record.question, answer=answer, ids=[*ids, *said],
            answer_start=len(ids), kinds=[numbers[name] for name, _ in prompt.items],
            rows=[rows for _, rows in placed], items=[row for row, _ in placed],
        )  # fmt: skip

    def _answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer with those that end it, or, of one that is too long, its first ids."""
        ids = self.tokenizer.encode_answer(answer) if self.template.chat else self.tokenizer.encode(answer)
        limit = self.settings.max_answer_tokens
        if len(ids) <= limit:
            return [*ids, *end_of_answer(self.template, self.tokenizer)]
        if self.settings.long_answers == "skip":
            raise Unusable("answer too long", f"{len(ids)} tokens, at most {limit}")
        self.changed.update(answers_cut=1, answer_tokens_cut=len(ids) - limit)
        return ids[:limit]

    def _item(self, name: str, text: str) -> tuple[int, int]:
        """(row in its table, encoder rows); each item is stored once."""
        if (name, text) not in self.seen:
            modality = self.modalities[name]
            features = self.items.features(name, text)
            self.tables[name].append(text=text, **modality.to_row(features))
            self.changed.update(modality.changes(text, features))
            self.seen[name, text] = len(self.tables[name]) - 1, features.rows
        return self.seen[name, text]

    def about(self) -> dict[str, Any]:
        """What the manifest says besides hashes and counts of records."""
        said = {
            modality.name: {
                "kind": kind, "version": modality.version, "table": modality.table,
                "items": len(self.tables[modality.name]), "limits": self.limits[modality.name].model_dump(mode="json"),
            }
            for kind, modality in self.kinds.items()
        }  # fmt: skip
        settings = {name: getattr(self.settings, name) for name in ("template", "max_answer_tokens", "long_answers")}
        return {"modalities": said, "settings": settings, "changed": dict(self.changed)}


def build_split(
    records: Iterable[MultimodalQuestion], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[], None] = lambda: None, about: Mapping[str, Any] = MappingProxyType({}),
    items: Items | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write one split and return its manifest; records that cannot be samples are counted by reason and listed.

    Args:
        about: what the manifest says besides.
        items: features that were made before.
    """
    # Before the work, not after it.
    check_new(folder)
    rejects = []
    with items or settings.items() as held:
        builder = _Builder(tokenizer, settings, held)
        for record in records:
            reject = builder.add(record)
            rejects += [reject] if reject is not None else []
            progress()
    tables = {builder.modalities[name].table: table for name, table in builder.tables.items()}
    return write_store(folder, {RECORDS: builder.records, **tables}, rejects, tokenizer, {**builder.about(), **about})


def build_dataset(
    files: list[Path], output: Path, tokenizer: Path, how: Split | None, settings: BuildSettings,
    limit: int | None = None, seed: int = 0,
) -> list[str]:  # fmt: skip
    """Write train/, validation/ and test/, or all/ where `how` is None; returns lines for the operator."""
    unread: list[Reject] = []
    made, modalities = open_tokenizer(tokenizer), list(settings.modalities().values())
    with settings.items() as items, _progress() as progress:
        records = _read(files, settings.layout, limit, unread, progress)
        # First what a limit refuses, then work on relatives, whose time no limit bounds.
        good: list[MultimodalQuestion] = []
        refused: list[MultimodalQuestion] = []
        for record in progress.track(records, description="featurise"):
            (good if items.all_good(record) else refused).append(record)
        task = progress.add_task("split", total=None)
        split = {"all": good} if how is None else split_records(good, how, seed, modalities)
        # Those that are refused are listed in one of the splits, and say nothing about relatives.
        listed = {"all": refused} if how is None else split_records(refused, "random", seed, modalities)
        progress.remove_task(task)
        about = {"read": {"records": len(records), "left_out": counts(unread)}}
        lines = [f"read: {len(records)} records, left out {_shown(counts(unread))}"]
        task = progress.add_task("tokenize", total=len(records))
        for name, part in split.items():
            everything = [*part, *listed[name]]
            manifest = build_split(
                everything, output / name, made, settings, lambda: progress.advance(task), about, items
            )
            lines.append(f"{name}: {_counts(manifest)}")
        write_rejects(output / REJECTS, unread)
        if how is not None:
            progress.add_task("leakage", total=None)
            found = leakage(split, modalities)
            shares = ", ".join(f"{key} {value:.1%}" for key, value in found.items())
            lines.append(f"leakage of held-out records: {shares}")
    return lines


def _progress() -> Progress:
    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    # A log file is no place for a moving bar.
    return Progress(*columns, transient=True, console=console, disable=not console.is_terminal)


def _read(
    files: list[Path], layout: str | None, limit: int | None, unread: list[Reject], progress: Progress
) -> list[MultimodalQuestion]:
    task = progress.add_task("read", total=None)
    records = []
    for record in islice(chain.from_iterable(read_records(file, layout, unread) for file in files), limit):
        records.append(record)
        progress.advance(task)
    progress.remove_task(task)
    if not records:
        reasons = f"; left out: {_shown(counts(unread))}" if unread else ""
        raise DataError("the files hold no question", got=", ".join(map(str, files)) + reasons)
    return records


def _counts(manifest: dict[str, Any]) -> str:
    tables = "".join(f", {held['items']} {held['table']}" for held in manifest["modalities"].values())
    left_out, changed = _shown(manifest["left_out"]), _shown(manifest["changed"])
    return f"{manifest['records']} records{tables}, left out {left_out}, changed {changed}"


def _shown(found: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in found.items()) or "none"
