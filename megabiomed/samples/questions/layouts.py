"""One entry of each published layout to a record. A layout raises `Unusable` for an entry that cannot be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from megabiomed.samples.fields import is_missing, label_of, text_of, texts_of
from megabiomed.samples.questions.records import VERDICTS, Kind, QuestionRecord
from megabiomed.samples.rejects import Unusable

Row = Mapping[str, Any]
Layout = Callable[[str, str, Row, int], QuestionRecord]
"""(id or "", source, entry, first number of an option) -> record."""

LETTERS = "ABCDEFGHIJ"
_OPTIONS = ("opa", "opb", "opc", "opd")
_MEDMCQA_ID, _PUBMED_ID = ("id",), ("pubid", "PMID", "pmid", "id")


def layout_of(row: Row) -> Kind | None:
    """The layout of an entry by its keys; None when it is none that is known."""
    if ("QUESTION" in row and "CONTEXTS" in row) or ("question" in row and "final_decision" in row):
        return "pubmedqa"
    if "question" in row and any(key in row for key in _OPTIONS):
        return "medmcqa"
    if "question" in row and "options" in row:
        return "medqa"
    if "question" in row and ("answer" in row or "answers" in row):
        return "free"
    return None


def pubmedqa(ident: str, source: str, row: Row, base: int = 0) -> QuestionRecord:
    """PQA-L, PQA-A, PQA-U (QUESTION, CONTEXTS, LONG_ANSWER, final_decision), and the Hub's lower-case rows."""
    context = row.get("CONTEXTS", row.get("context"))
    # The Hub puts the contexts into an object, beside their labels.
    if isinstance(context, Mapping):
        context = context.get("contexts")
    if isinstance(context, str):
        context = [context]
    if not isinstance(context, Sequence) or not all(isinstance(part, str) for part in context):
        raise Unusable("no context", context)
    question = _text(row, "QUESTION", "question")
    verdict = row.get("final_decision")
    if is_missing(verdict):
        raise Unusable("no label", "final_decision")
    if verdict not in VERDICTS:
        raise Unusable("label out of range", verdict)
    label = VERDICTS.index(verdict)
    name = ident or _first(row, _PUBMED_ID) or source
    return QuestionRecord(
        name, "pubmedqa", question, VERDICTS, label, VERDICTS[label], "\n".join(context), "", source
    )  # fmt: skip


def medmcqa(ident: str, source: str, row: Row, base: int = 1) -> QuestionRecord:
    """MedMCQA: opa..opd and `cop`, which counts from 1 in the published files and from 0 on the Hub."""
    question = _text(row, "question")
    options = _options([row.get(key) for key in _OPTIONS])
    cop = row.get("cop")
    # -1 marks the Hub's test questions, whose answers are not published.
    if is_missing(cop) or integer(cop) == -1:
        raise Unusable("no label", f"cop {cop}")
    label = integer(cop) - base
    _check_label(label, options, f"cop {cop}")
    name = ident or _first(row, _MEDMCQA_ID) or source
    subject = label_of(row.get("subject_name"))
    return QuestionRecord(name, "medmcqa", question, options, label, options[label], "", subject, source)


def medqa(ident: str, source: str, row: Row, base: int = 0) -> QuestionRecord:
    """MedQA-USMLE with 4 or 5 options: `options` a mapping or a list of {key, value}, `answer_idx` a letter."""
    question = _text(row, "question")
    held = row["options"]
    if isinstance(held, Sequence) and not isinstance(held, str) and all(isinstance(o, Mapping) for o in held):
        held = {option.get("key"): option.get("value") for option in held}
    if not isinstance(held, Mapping):
        raise Unusable("missing options", held)
    # Parquet gives a struct all keys that any row has; the empty ones are none of this question's.
    pairs = [(str(key), value) for key, value in sorted(held.items(), key=lambda pair: str(pair[0]))]
    while pairs and is_missing(pairs[-1][1]):
        pairs.pop()
    letters, options = [key for key, _ in pairs], _options([value for _, value in pairs])
    label = _medqa_label(row, letters, options)
    subject = label_of(row.get("meta_info"))
    name = ident or _first(row, _MEDMCQA_ID) or source
    return QuestionRecord(name, "medqa", question, options, label, options[label], "", subject, source)


def _medqa_label(row: Row, letters: list[str], options: tuple[str, ...]) -> int:
    letter, answer = row.get("answer_idx"), row.get("answer")
    if is_missing(letter) and is_missing(answer):
        raise Unusable("no label", "answer_idx and answer")
    if is_missing(letter):
        if answer not in options:
            raise Unusable("label out of range", f"answer {answer}")
        return options.index(answer)
    if letter not in letters:
        raise Unusable("label out of range", f"answer_idx {letter}")
    label = letters.index(letter)
    if isinstance(answer, str) and answer.strip() not in (options[label], letter):
        raise Unusable("answer and answer_idx disagree", f"{letter}: {options[label]}, answer {answer}")
    return label


def free(ident: str, source: str, row: Row, base: int = 0) -> QuestionRecord:
    """Free answers: question and answer, or the first of answers; a context if there is one."""
    question = _text(row, "question")
    answer = row.get("answer", row.get("answers"))
    if isinstance(answer, Sequence) and not isinstance(answer, str):
        answer = next((item for item in answer if isinstance(item, str) and item.strip()), None)
    if not isinstance(answer, str) or not answer.strip():
        raise Unusable("no answer", answer)
    context, subject = texts_of(row.get("context"), "context"), row.get("subject")
    return QuestionRecord(
        ident or _first(row, _MEDMCQA_ID) or source, "free", question, (), None, answer.strip(),
        "\n".join(context), label_of(subject), source,
    )  # fmt: skip


LAYOUTS: dict[Kind, Layout] = {"pubmedqa": pubmedqa, "medmcqa": medmcqa, "medqa": medqa, "free": free}


def _text(row: Row, *keys: str) -> str:
    text = next((row[key] for key in keys if row.get(key) is not None), None)
    if not isinstance(text, str) or not text.strip():
        raise Unusable("empty question", text)
    return text.strip()


def _options(values: Sequence[Any]) -> tuple[str, ...]:
    try:
        found = tuple(text_of(value, "option").strip() for value in values)
    except Unusable as error:
        raise Unusable("missing options", f"{error.reason}: {values}") from None
    if len(found) < 2:
        raise Unusable("missing options", values)
    return found


def integer(value: Any) -> int:
    """A number that a file may hold as text or as a float."""
    try:
        if int(value) == float(value):
            return int(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise Unusable("label out of range", value)


def _check_label(label: int, options: tuple[str, ...], detail: str) -> None:
    if not 0 <= label < len(options):
        raise Unusable("label out of range", detail)


def _first(row: Row, keys: Sequence[str]) -> str:
    return next(filter(None, (label_of(row.get(key)) for key in keys)), "")
