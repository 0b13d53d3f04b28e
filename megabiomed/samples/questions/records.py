"""What every dataset of questions becomes, and what is said about entries that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from megabiomed.samples.rejects import Reject, counts

Kind = Literal["pubmedqa", "medmcqa", "medqa", "free"]
VERDICTS = ("yes", "no", "maybe")
"""The options of PubMedQA, in lm-eval's order."""


@dataclass(frozen=True)
class QuestionRecord:
    """One question.

    Attributes:
        ident: the dataset's own id, or file name and position where it has none.
        options: the choices, in the file's order; empty for free answers.
        label: index of the right option; None for free answers.
        answer: text of the right answer: the option's, or the reference of a free answer.
        context: what the question is asked about (an abstract), "" where there is none.
        subject: for accuracy by subject, "" where the dataset names none.
        source: file name and position, `dev.json:17` (lines from 1, list entries from 0) or `ori_pqal.json:21645374`.
    """

    ident: str
    kind: Kind
    question: str
    options: tuple[str, ...]
    label: int | None
    answer: str
    context: str = ""
    subject: str = ""
    source: str = ""


@dataclass
class QuestionSet:
    """The questions of one file.

    Attributes:
        notes: choices that the reader made and that a user should know.
    """

    path: Path
    kind: Kind
    records: list[QuestionRecord]
    rejects: list[Reject] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def reasons(self) -> dict[str, int]:
        """How many entries were left out, by reason."""
        return counts(self.rejects)

    def describe(self) -> list[str]:
        """Lines for the terminal."""
        left = ", ".join(f"{count} {reason}" for reason, count in self.reasons().items()) or "none"
        return [f"{self.path}: {self.kind}, {len(self.records)} questions, left out: {left}", *self.notes]
