"""Questions of a file as token ids on disk.

store/ records.arrow rejects.jsonl tokenizer.model manifest.json; the folder gets its name when all of it is there.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from megabiomed.data.arrow import flat_lists, read_table, write_table
from megabiomed.ground.errors import DataError
from megabiomed.ground.files import new_folder, read_json, sha256_file, write_json
from megabiomed.samples.questions.encode import encode_prompt
from megabiomed.samples.questions.readers import AutoSplit, read_questions
from megabiomed.samples.questions.records import QuestionRecord, Reject, Unusable, write_rejects
from megabiomed.samples.questions.templates import Template, find_template, render
from megabiomed.tokenizer.tokenizer import Tokenizer

MANIFEST, RECORDS, TOKENIZER = "manifest.json", "records.arrow", "tokenizer.model"
FORMAT = 1
_FIELDS: dict[str, Any] = {"ident": pa.string(), "ids": pa.list_(pa.int32()), "answer_start": pa.int32()}


@dataclass(frozen=True)
class BuildSettings:
    """How questions become samples; stored in the manifest.

    Attributes:
        window: tokens that a question and its answer may take; longer contexts are cut.
        split: of a PubMedQA file; auto leaves the official test ids out where the file holds them.
    """

    window: int
    template: str | None = None
    split: AutoSplit = "auto"
    limit: int | None = None


def build_store(
    files: Sequence[Path], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:  # fmt: skip
    """Write a store and return its manifest; what cannot be used is counted by reason and listed in rejects.jsonl.

    Raises:
        DataError: a file that is missing or has no known layout, or not one usable question.
    """
    if folder.exists():
        raise DataError(f"{folder} is already there", do="choose another folder or delete this one")
    if len({file.resolve() for file in files}) < len(files):
        raise DataError(
            "a file is listed twice", got=", ".join(map(str, files)), do="list it once; `repeat` shows it more often"
        )
    with new_folder(folder) as temporary:
        return _write(files, temporary, tokenizer, settings, progress)


def _write(
    files: Sequence[Path], folder: Path, tokenizer: Tokenizer, settings: BuildSettings,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:  # fmt: skip
    columns: dict[str, list[Any]] = {key: [] for key in _FIELDS}
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
                words = _add(columns, record, template, tokenizer, settings.window)
            except Unusable as error:
                rejects.append(Reject(record.source, record.ident, error.reason, error.detail))
                continue
            finally:
                progress(number, len(found.records))
            cut["contexts"] += words > 0
            cut["words"] += words
    if not columns["ident"]:
        raise DataError(
            f"no question of {', '.join(map(str, files))} fits into {settings.window} tokens",
            got=_counts(rejects), expected="at least one question",
            do="raise data.seq_length (--window), or look at the file with `megabiomed qa inspect`",
        )  # fmt: skip
    write_table(folder / RECORDS, columns, _FIELDS)
    write_rejects(folder / "rejects.jsonl", rejects)
    shutil.copyfile(tokenizer.path, folder / TOKENIZER)
    manifest = {
        "format": FORMAT, "kinds": sorted(set(kinds)), "records": len(columns["ident"]), "cut": cut,
        "left_out": _counts(rejects),
        "settings": asdict(settings), "tokenizer": tokenizer.sha256,
        "files": {str(file): sha256_file(file) for file in files}, "sha256": sha256_file(folder / RECORDS),
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return manifest


def _counts(rejects: Sequence[Reject]) -> dict[str, int]:
    return dict(sorted(Counter(reject.reason for reject in rejects).items()))


def _add(
    columns: dict[str, list[Any]], record: QuestionRecord, template: Template, tokenizer: Tokenizer, window: int
) -> int:
    """Append one record; returns the words that its context lost. Raises `Unusable`."""
    # The other options are in the prompt; as continuations they are not trained on.
    encoded = encode_prompt(tokenizer, replace(render(template, record), options=()), window)
    columns["ident"].append(record.ident)
    columns["ids"].append([*encoded.prompt, *encoded.answer, tokenizer.eos_id])
    columns["answer_start"].append(len(encoded.prompt))
    return encoded.cut_words


class QuestionStore:
    """An opened store (an `AnswerStore` of data.answers)."""

    def __init__(self, path: Path) -> None:
        if not (path / MANIFEST).is_file():
            raise DataError(
                f"{path} is no store of questions", expected=MANIFEST, do="make it with `megabiomed qa build`"
            )
        self.path, self.manifest = path, read_json(path / MANIFEST)
        if self.manifest.get("format") != FORMAT:
            raise DataError(
                f"{path} has another format", got=self.manifest.get("format"), expected=FORMAT,
                do="make it again with `megabiomed qa build`",
            )  # fmt: skip
        self.tokenizer_path, self.tokenizer_sha256 = path / TOKENIZER, str(self.manifest["tokenizer"])
        self.fingerprint = str(self.manifest["sha256"])
        table = read_table(path / RECORDS)
        self.idents = table["ident"]
        self.ids, self.id_ends = flat_lists(table["ids"])
        self.answer_start = table["answer_start"].to_numpy()

    def __len__(self) -> int:
        return len(self.answer_start)

    def prompt(self, number: int) -> list[int]:
        """Token ids of one question, without its answer."""
        begin = self.id_ends[number]
        return self.ids[begin : begin + self.answer_start[number]].tolist()

    def prompts(self) -> Iterator[str]:
        """The texts of all questions, without their answers."""
        tokenizer = Tokenizer(self.tokenizer_path)
        return (tokenizer.decode(self.prompt(number)) for number in range(len(self)))

    def describe(self) -> str:
        """One line for the operator."""
        cut, left = self.manifest["cut"], self.manifest["left_out"]
        reasons = ", ".join(f"{count} {reason}" for reason, count in left.items()) or "none"
        return (f"{', '.join(self.manifest['kinds'])}: {len(self):,} questions, {cut['contexts']:,} contexts cut "
                f"({cut['words']:,} words), left out: {reasons}")  # fmt: skip
