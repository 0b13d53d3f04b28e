"""Which questions the training data holds, as the decontamination reports of its stores say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from megabiomed.corpus.decontaminate import NGRAM, REPORT
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import read_json
from megabiomed.samples.questions.overlap import find_repeated
from megabiomed.samples.questions.store import QuestionStore
from megabiomed.samples.store import MANIFEST as QUESTIONS

Policy = Literal["mark", "refuse", "drop"]


@dataclass
class Contaminated:
    """What the reports say.

    Attributes:
        hashes: of the questions (`prompt_hash`) that a paper in a store holds.
        reports: files that were read.
        unchecked: stores without a report: nobody looked for questions in them.
        searched: by hash of an evaluation file, for each report on it: questions that were looked for, and all of the file.
        questions: stores of questions that the model was fine-tuned on; one that is not there is unchecked.
    """

    hashes: set[str] = field(default_factory=set)
    reports: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    searched: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    questions: list[QuestionStore] = field(default_factory=list)

    def repeated(self, prompts: Sequence[str]) -> dict[int, str]:
        """Number of a prompt -> the training question that it is, or nearly is, as `store: id`."""
        found: dict[int, str] = {}
        for store in self.questions:
            idents = store.idents.to_pylist()
            near = find_repeated(prompts, store.prompts()).found
            found |= {number: f"{store.path}: {idents[place]}" for number, (place, _) in near.items()}
        return found

    def describe(self, file_sha256: str) -> str:
        """Whether a file of questions was looked for: "yes", "in part: ...", "no: ..."."""
        if not self.reports:
            return "no: no training store with a decontamination report is known"
        if file_sha256 not in self.searched:
            return "no: the training stores were searched for other files than this one"
        counts = self.searched[file_sha256]
        looked_for, items = min(counts)
        if max(counts)[0] == 0:
            return f"no: none of the {items} questions is long enough to be looked for ({NGRAM} words)"
        missing = [f"no report in {', '.join(self.unchecked)}"] if self.unchecked else []
        if len(counts) < len(self.reports):
            missing.append(
                f"{len(self.reports) - len(counts)} of {len(self.reports)} stores were searched for other files"
            )
        if looked_for < items:
            missing.append(f"{looked_for} of {items} questions are long enough to be looked for ({NGRAM} words)")
        return f"in part: {'; '.join(missing)}" if missing else "yes"


def read_reports(stores: Sequence[Path], named: Sequence[Path], questions: Sequence[Path] = ()) -> Contaminated:
    """Read the reports of token stores, and open stores of training questions.

    Args:
        stores: what the run trained on; a store that is gone or has no report counts as unchecked.
        named: stores or reports that the user names; these must have one.
        questions: stores of questions that the run trained on, as far as they are there.
    """
    found = Contaminated()
    for path in questions:
        if (path / QUESTIONS).is_file():
            found.questions.append(QuestionStore(path))
        else:
            found.unchecked.append(str(path))
    for path in [*named, *stores]:
        file = path if path.is_file() else path / REPORT
        if str(file) in found.reports or str(path) in found.unchecked:
            continue
        if not file.is_file():
            if path in named:
                raise DataError(
                    f"{path} has no decontamination report", expected=str(file),
                    do="build the corpus with --decontaminate FILE, or leave --store out",
                )  # fmt: skip
            found.unchecked.append(str(path))
            continue
        report = read_json(file)
        try:
            found.hashes |= {item["prompt_sha256"] for item in report["items"] if item["in_store"]}
            for known in report["sets"]:
                found.searched.setdefault(known["sha256"], []).append((int(known["searched"]), int(known["items"])))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} is no decontamination report", got=f"{type(error).__name__}: {error}") from None
        found.reports.append(str(file))
    return found
