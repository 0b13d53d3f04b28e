"""Questions of a file as token ids on disk: the plain layout of an `AnswerStore`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import DataError
from megabiomed.ground.files import sha256_file
from megabiomed.samples.questions.encode import encode_prompt
from megabiomed.samples.questions.readers import AutoSplit, read_questions
from megabiomed.samples.questions.records import QuestionRecord
from megabiomed.samples.questions.templates import Template, find_template, render
from megabiomed.samples.rejects import Reject, Unusable, counts
from megabiomed.samples.store import ANSWER_FIELDS, RECORDS, AnswerStore, Table, check_new, write_store
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class BuildSettings:
    """How questions become samples; stored in the manifest.

    Attributes:
        window: tokens that a question and its answer may take; longer contexts are cut.
        split: of a PubMedQA file; auto leaves the official test ids out where the file holds them.
        chat: each question is a conversation, as the tokenizer's chat template writes it.
    """

    window: int
    template: str | None = None
    split: AutoSplit = "auto"
    limit: int | None = None
    chat: bool = False

    def stored(self) -> dict[str, Any]:
        """As values for a manifest; earlier versions had no `chat`, and wrote what is not one."""
        return {name: value for name, value in asdict(self).items() if name != "chat" or value}


def build_store(
    files: Sequence[Path], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Write a store and return its manifest; what cannot be used is counted by reason and listed in rejects.jsonl.

    Raises:
        DataError: a file that is missing or has no known layout, or not one usable question.
    """
    check_new(folder)
    if len({file.resolve() for file in files}) < len(files):
        raise DataError(
            "a file is listed twice", got=", ".join(map(str, files)), do="list it once; `repeat` shows it more often"
        )
    records = Table.empty(ANSWER_FIELDS)
    cut = {"contexts": 0, "words": 0}
    rejects: list[Reject] = []
    kinds = []
    for file in files:
        found = read_questions(file, settings.split, settings.limit)
        name, template = find_template(settings.template, found.kind)
        kinds.append(f"{found.kind}/{name}")
        rejects += found.rejects
        for number, record in enumerate(found.records, 1):
            try:
                words = _add(records, record, template, tokenizer, settings)
            except Unusable as error:
                rejects.append(Reject(record.source, record.ident, error.reason, error.detail))
                continue
            finally:
                progress(number, len(found.records))
            cut["contexts"] += words > 0
            cut["words"] += words
    if not len(records):
        raise DataError(
            f"no question of {', '.join(map(str, files))} fits into {settings.window} tokens",
            got=counts(rejects), expected="at least one question",
            do="raise data.seq_length (--window), or look at the file with `megabiomed questions inspect`",
        )  # fmt: skip
    hashes = {str(file): sha256_file(file) for file in files}
    about = {"kinds": sorted(set(kinds)), "cut": cut, "settings": settings.stored(), "files": hashes}
    return write_store(folder, {RECORDS: records}, rejects, tokenizer, about)


def _add(
    records: Table, record: QuestionRecord, template: Template, tokenizer: Tokenizer, settings: BuildSettings
) -> int:
    """Append one record; returns the words that its context lost. Raises `Unusable`."""
    # The other options are in the prompt; as continuations they are not trained on.
    prompt = replace(render(template, record), options=())
    encoded = encode_prompt(tokenizer, prompt, settings.window, chat=settings.chat)
    ids = [*encoded.prompt, *encoded.answer, *encoded.end]
    records.append(ident=record.ident, ids=ids, answer_start=len(encoded.prompt))
    return encoded.cut_words


class QuestionStore(AnswerStore):
    """An opened store of questions."""

    what, command = "store of questions", "megabiomed questions build"

    @property
    def fingerprint(self) -> str:
        """Hash of the records."""
        held = self.manifest["sha256"]
        return str(held if self.format == 1 else held[RECORDS])

    def prompt(self, number: int) -> list[int]:
        """Token ids of one question, without its answer."""
        begin = self.id_ends[number]
        return self.ids[begin : begin + self.answer_start[number]].tolist()

    def prompts(self) -> Iterator[str]:
        """The texts of all questions, without their answers."""
        tokenizer = open_tokenizer(self.tokenizer_path)
        return (tokenizer.decode(self.prompt(number)) for number in range(len(self)))

    def describe(self) -> str:
        """One line for the operator."""
        cut = self.manifest["cut"]
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items()) or "none"
        return (f"{', '.join(self.manifest['kinds'])}: {len(self):,} questions, {cut['contexts']:,} contexts cut "
                f"({cut['words']:,} words), left out: {reasons}")  # fmt: skip
