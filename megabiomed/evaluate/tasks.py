"""From a file of questions to items that a model can be asked: prompts within the window, examples, contamination."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from megabiomed.corpus.decontaminate import prompt_hash
from megabiomed.evaluate.contamination import Contaminated, Policy
from megabiomed.evaluate.packing import Request
from megabiomed.evaluate.settings import EvaluateSettings, Mode, TaskSettings
from megabiomed.ground.errors import ConfigError, DataError
from megabiomed.ground.files import sha256_bytes, sha256_file
from megabiomed.samples.questions.encode import Encoded, encode_prompt
from megabiomed.samples.questions.readers import Split, read_questions
from megabiomed.samples.questions.records import Kind, QuestionRecord
from megabiomed.samples.questions.templates import Prompt, Template, find_template, render
from megabiomed.samples.rejects import Reject, Unusable
from megabiomed.tokenizer.interface import Tokenizer


@dataclass(frozen=True)
class TaskItem:
    """One question, ready.

    Attributes:
        prompt_sha256: of the whole prompt as it is asked, examples included.
        question_sha256: of the question's words, as decontamination reports have it.
    """

    record: QuestionRecord
    prompt: Prompt
    encoded: Encoded
    prompt_sha256: str
    question_sha256: str
    contaminated: bool

    def requests(self) -> list[Request]:
        """One request an option."""
        return [Request(self.encoded.prompt, ids) for ids in self.encoded.options]


@dataclass
class Task:
    """All items of one set.

    Attributes:
        dropped: contaminated items that were left out.
        searched: whether the training data was searched for this file.
        compared: training questions of the model that the items were compared with.
        chat: the questions are conversations, as the tokenizer's chat template writes them.
    """

    name: str
    path: Path
    kind: Kind
    template: str
    mode: Mode
    items: list[TaskItem]
    file_sha256: str
    searched: str
    shots: int = 0
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    dropped: int = 0
    compared: int = 0
    chat: bool = False

    def header(self) -> dict[str, Any]:
        """What results.json says about the questions."""
        return {
            "file": str(self.path), "file_sha256": self.file_sha256, "kind": self.kind, "template": self.template,
            "mode": self.mode, "chat": self.chat, "shots": self.shots, "items": len(self.items), "notes": self.notes,
            "left_out": _counts(self.rejects), "contamination_checked": self.searched,
            "contaminated_dropped": self.dropped, "training_questions_compared": self.compared,
            "contexts_cut": sum(item.encoded.cut_words > 0 for item in self.items),
            "words_cut": sum(item.encoded.cut_words for item in self.items),
            "examples_cut": sum(item.encoded.cut_shots for item in self.items),
        }  # fmt: skip


def build_task(
    asked: TaskSettings, settings: EvaluateSettings, tokenizer: Tokenizer, context: int, known: Contaminated
) -> Task:
    """Read and encode one set.

    Args:
        context: longest sequence of the model in tokens.

    Raises:
        DataError: see `read_questions`; or contaminated items under the policy `refuse`.
    """
    read = read_questions(asked.path, asked.split)
    name, template = find_template(asked.template, read.kind)
    mode: Mode = "generate" if read.kind == "free" else settings.mode
    file_sha256 = sha256_file(asked.path)
    records, notes = read.records[: settings.limit], list(read.notes)
    if len(records) < len(read.records):
        notes.append(f"the first {len(records):,} of {len(read.records):,} questions (--limit)")
    task = Task(asked.name, asked.path, read.kind, name, mode, [], file_sha256, known.describe(file_sha256),
                settings.shots, read.rejects, notes, chat=settings.chat)  # fmt: skip
    examples = _Examples(asked, template, settings, read.kind) if settings.shots else None
    room = settings.max_new_tokens if mode == "generate" else 0
    if room >= context:
        raise ConfigError(
            "generated answers leave no room for a question", got=f"{room} tokens",
            expected=f"fewer than the model's context of {context}", do="lower --max-new-tokens",
        )  # fmt: skip
    for record in records:
        shots = examples.of(record) if examples else []
        item = _item(record, template, tokenizer, context, shots, room, known, task)
        if item is not None:
            task.items.append(item)
    _mark_repeated(task, known)
    _apply_policy(task, settings.contaminated)
    if not task.items:
        left = _counts(task.rejects) | ({"contaminated": task.dropped} if task.dropped else {})
        raise DataError(
            f"nothing is left of {asked.path} to ask", got=left,
            do=f"`megabiomed questions inspect` shows the file; the model's context has {context} tokens",
        )  # fmt: skip
    return task


def _item(
    record: QuestionRecord, template: Template, tokenizer: Tokenizer, context: int, shots: Sequence[str], room: int,
    known: Contaminated, task: Task,
) -> TaskItem | None:  # fmt: skip
    prompt = render(template, record)
    try:
        encoded = encode_prompt(tokenizer, prompt, context, shots, room, task.chat)
    except Unusable as error:
        task.rejects.append(Reject(record.source, record.ident, error.reason, error.detail))
        return None
    question = prompt_hash(record.question)
    hashed = sha256_bytes(encoded.text.encode())
    return TaskItem(record, prompt, encoded, hashed, question, question in known.hashes)


def _mark_repeated(task: Task, known: Contaminated) -> None:
    """Items that the model was fine-tuned on, or nearly, are contaminated."""
    task.compared = sum(map(len, known.questions))
    found = known.repeated([item.prompt.text for item in task.items])
    if found:
        first = min(found)
        task.notes.append(
            f"{len(found)} of {len(task.items)} questions are, or nearly are, training questions of the model, e.g. "
            f"{task.items[first].record.ident} is {found[first]}"
        )
        task.items = [
            replace(item, contaminated=True) if number in found else item for number, item in enumerate(task.items)
        ]


def _apply_policy(task: Task, policy: Policy) -> None:
    found = [item for item in task.items if item.contaminated]
    if found and policy == "refuse":
        raise DataError(
            f"the training data holds questions of {task.path}",
            got=f"{len(found)} of {len(task.items)}, e.g. {found[0].record.ident}",
            do="--contaminated mark reports accuracy with and without them, drop leaves them out",
        )
    if policy == "drop":
        task.items = [item for item in task.items if not item.contaminated]
        task.dropped = len(found)


class _Examples:
    """Few-shot examples: the same ones for every question of a set, drawn by seed, never the question itself.

    The same ones, because then they are computed once for many questions.
    """

    def __init__(self, asked: TaskSettings, template: Template, settings: EvaluateSettings, kind: Kind) -> None:
        path = asked.train or asked.path
        split: Split = "train" if asked.train is None else "all"
        if asked.train is None and asked.split != "test":
            raise DataError(
                f"few-shot examples of {asked.name} would come from the questions themselves",
                got=f"--shots {settings.shots} without --train {asked.name}=FILE", do="name a training file",
            )  # fmt: skip
        read = read_questions(path, split)
        if read.kind != kind:
            raise DataError(f"{path} holds other questions than {asked.path}", got=read.kind, expected=kind)
        pool = read.records
        if len(pool) <= settings.shots:
            raise DataError(f"{path} has too few examples", got=len(pool), expected=f"more than {settings.shots}")
        self.count, self.template = settings.shots, template
        self.pool = random.Random(f"{settings.seed}/{asked.name}").sample(pool, min(len(pool), 4 * settings.shots + 4))

    def of(self, record: QuestionRecord) -> list[str]:
        """Rendered examples for one question.

        Raises:
            DataError: the drawn examples are nearly all this same question.
        """
        # Exams ask "Which is true?" of many options: the words of the question alone do not make it the same one.
        others = [other for other in self.pool if _content(other) != _content(record) and other.ident != record.ident]
        if len(others) < self.count:
            raise DataError(
                f"too few other examples for {record.ident}", got=len(others), expected=self.count,
                do="give a --train file with more different questions, or fewer --shots",
            )  # fmt: skip
        prompts = [render(self.template, other) for other in others[: self.count]]
        return [prompt.text + prompt.answer for prompt in prompts]


def _content(record: QuestionRecord) -> tuple[str, str, tuple[str, ...]]:
    return record.question, record.context, record.options


def _counts(rejects: Sequence[Reject]) -> dict[str, int]:
    found: dict[str, int] = {}
    for reject in rejects:
        found[reject.reason] = found.get(reject.reason, 0) + 1
    return found
