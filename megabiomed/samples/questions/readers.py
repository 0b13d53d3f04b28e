"""Questions of a file, in any known layout; the layout is known by its keys, never by the file's name.

JSON (a list, or an object of id to entry as PubMedQA has it), JSON lines (both also packed), Parquet.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from megabiomed.ground.errors import DataError
from megabiomed.samples.documents import Entry, read_entries
from megabiomed.samples.fields import label_of, require_valid
from megabiomed.samples.questions.layouts import LAYOUTS, integer, layout_of
from megabiomed.samples.questions.records import Kind, QuestionRecord, QuestionSet
from megabiomed.samples.rejects import Reject, Unusable

Split = Literal["all", "train", "test"]
AutoSplit = Literal["auto", "all", "train", "test"]
GROUND_TRUTH = "test_ground_truth.json"
"""Beside PubMedQA's ori_pqal.json: the official test ids, id to label."""


def read_questions(path: Path, split: AutoSplit = "all", limit: int | None = None) -> QuestionSet:
    """All usable questions of a file; what is not usable is in `rejects` with its reason.

    Args:
        split: of a PubMedQA file with test_ground_truth.json beside it: the 500 official test ids, or the others; `auto`
            takes the others of the file that holds the test questions, and all of any other file in that folder.
        limit: questions to keep at most (the first ones).

    Raises:
        DataError: no such file, an unknown layout, no usable question, or a split that the file does not have.
    """
    # All at once: the layout, and what `cop` counts from, are properties of the whole file.
    entries = list(read_entries(path, lambda row: layout_of(row) is not None))
    kind = _kind(path, entries)
    base, notes = _option_base(path, entries) if kind == "medmcqa" else (0, [])
    found = QuestionSet(path, kind, [], notes=notes)
    seen: set[str] = set()
    for ident, source, row in entries:
        record = _record(found, kind, ident, source, row, base)
        if record is None:
            continue
        # Official splits name ids, so an id must mean one question.
        if record.ident in seen:
            found.rejects.append(Reject(source, record.ident, "duplicate id"))
            continue
        seen.add(record.ident)
        found.records.append(record)
    if split == "auto":
        split = "train" if _holds_test_ids(path, found.records) else "all"
    if split != "all":
        found.records = _split(path, found.records, split)
    if not found.records:
        reasons = ", ".join(f"{count} {reason}" for reason, count in found.reasons().items())
        raise DataError(f"{path} holds no usable question", got=reasons or "no entries", do="check the file")
    # After the split, so that `limit` counts questions that are used.
    found.records = found.records[:limit]
    return found


def default_split(path: Path) -> Split:
    """What to evaluate of a file: the official test ids where the file has them, else everything.

    Raises:
        DataError: as `read_questions`, where a file of test ids lies beside this one.
    """
    if path.name == GROUND_TRUTH or not path.with_name(GROUND_TRUTH).is_file():
        return "all"
    return "test" if _holds_test_ids(path, read_questions(path).records) else "all"


def _holds_test_ids(path: Path, records: list[QuestionRecord]) -> bool:
    """Whether a file has questions of the official test: PubMedQA publishes files with and without them side by side."""
    file = path.with_name(GROUND_TRUTH)
    return file.is_file() and not _ground_truth(file).keys().isdisjoint(record.ident for record in records)


def _record(
    found: QuestionSet, kind: Kind, ident: str, source: str, row: Any, base: int
) -> QuestionRecord | None:  # fmt: skip
    try:
        if isinstance(row, Unusable):
            raise row
        if not isinstance(row, dict):
            raise Unusable("not an object", row)
        if layout_of(row) != kind:
            raise Unusable("other layout than the file", sorted(row))
        record = LAYOUTS[kind](ident, source, row, base)
        texts = (record.ident, record.source, record.subject, record.question, record.context, record.answer)
        require_valid((*texts, *record.options))
        return record
    except Unusable as error:
        name = ident or (label_of(row.get("id")) if isinstance(row, dict) else "")
        found.rejects.append(error.reject(source, name))
        return None


def _kind(path: Path, entries: list[Entry]) -> Kind:
    """The layout of most entries; the others are left out, and counted."""
    rows = [row for _, _, row in entries if isinstance(row, dict)]
    kinds = Counter(kind for kind in map(layout_of, rows) if kind is not None)
    if kinds:
        return kinds.most_common(1)[0][0]
    raise _unknown(path, f"keys {sorted(rows[0])[:12]}" if rows else "no object" if entries else "no entries")


def _unknown(path: Path, got: str) -> DataError:
    return DataError(
        f"{path} has no known layout of questions",
        got=got,
        expected="PubMedQA (QUESTION, CONTEXTS, final_decision), MedMCQA (question, opa..opd, cop), "
        "MedQA (question, options, answer_idx) or free answers (question, answer)",
        do="bring the file into one of these layouts",
    )


def _option_base(path: Path, entries: list[Entry]) -> tuple[int, list[str]]:
    """The first number that `cop` counts from, seen over the whole file.

    Raises:
        DataError: both 0 and 4 occur, so that one of them is wrong and nobody can tell which.
    """
    found = set(_options_named(entries))
    if 0 in found and 4 in found:
        raise DataError(
            f"{path} counts its options from 0 and from 1", got="cop 0 and cop 4 in one file",
            expected="1..4, as published, or 0..3, as on the Hub", do="mend the labels",
        )  # fmt: skip
    if 0 in found:
        return 0, []
    note = "cop is neither 0 nor 4 anywhere; read as the published files count, from 1"
    return 1, [] if 4 in found else [f"{path}: {note}"]


def _options_named(entries: list[Entry]) -> Iterator[int]:
    for _, _, row in entries:
        if isinstance(row, dict):
            with suppress(Unusable):
                yield integer(row.get("cop"))


def _split(path: Path, records: list[QuestionRecord], split: Split) -> list[QuestionRecord]:
    file = path.with_name(GROUND_TRUTH)
    if not file.is_file():
        raise DataError(
            f"{path} has no split {split}", got=f"no {GROUND_TRUTH} beside it",
            do="leave the split out, or put the official file there",
        )  # fmt: skip
    test = _ground_truth(file)
    missing = sorted(set(test) - {record.ident for record in records})
    if missing:
        raise DataError(
            f"{file} names questions that {path} does not have", got=f"{len(missing)}, e.g. {missing[0]}",
            do="take both files from one release",
        )  # fmt: skip
    wrong = [r.ident for r in records if r.ident in test and test[r.ident] != r.answer]
    if wrong:
        raise DataError(f"{file} and {path} disagree on labels", got=f"{len(wrong)}, e.g. {wrong[0]}")
    return [record for record in records if (record.ident in test) == (split == "test")]


def _ground_truth(file: Path) -> dict[str, str]:
    try:
        found = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read", got=error, do="put the official file there") from None
    if not isinstance(found, dict):
        raise DataError(f"{file} holds no ground truth", got=type(found).__name__, expected="an object of id to label")
    return found
