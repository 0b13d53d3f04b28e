"""Papers that contain questions of an evaluation set, found by n-gram overlap (as MEDITRON does: 8 words, 80 %)."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabiomed.ground.errors import DataError
from megabiomed.ground.files import sha256_bytes

NGRAM = 8
SHARE = 0.8
REPORT = "decontamination.json"
_WORD = re.compile(r"[^\W_]+")
_QUESTIONS = ("question", "QUESTION", "prompt", "text")
_IDS = ("id", "item_id", "pmid", "PMID")


@dataclass(frozen=True)
class HeldOutQuestion:
    """A question of an evaluation set; `prompt_sha256` is the hash of its words in lower case, joined by one space."""

    file: str
    item_id: str
    prompt_sha256: str
    words: tuple[str, ...]


def prompt_words(text: str) -> tuple[str, ...]:
    """The words of a text in lower case, without punctuation: what is compared and hashed."""
    return tuple(_WORD.findall(text.lower()))


def prompt_hash(text: str) -> str:
    """The hash under which the report names a question."""
    return sha256_bytes(" ".join(prompt_words(text)).encode())


def read_items(path: Path) -> list[HeldOutQuestion]:
    """Questions of a JSON or JSON-lines file: a list or lines of objects, or an object of id to object (PubMedQA).

    Raises:
        DataError: the file cannot be read, or no object in it has a question, prompt or text.
    """
    items = []
    for number, (name, value) in enumerate(_entries(path)):
        text = next((value[key] for key in _QUESTIONS if isinstance(value.get(key), str)), None)
        if text:
            own = next((str(value[key]) for key in _IDS if value.get(key) is not None), None)
            items.append(HeldOutQuestion(path.name, own or name or str(number), prompt_hash(text), prompt_words(text)))
    if not items:
        raise DataError(
            f"{path} holds no questions", expected=f"objects with one of {', '.join(_QUESTIONS)}", do="check the file"
        )
    return items


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            content = json.loads(text)
        except ValueError:  # several values one after another are not JSON, but they may be JSON lines
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON or JSON lines", got=error, do="check the file") from None
    # An object with a question is one item; else its keys are ids, as in PubMedQA.
    is_one = isinstance(content, dict) and any(key in content for key in _QUESTIONS)
    rows = (
        [("", content)] if is_one else content.items() if isinstance(content, dict) else (("", row) for row in content)
    )
    yield from ((name, row) for name, row in rows if isinstance(row, dict))


class Contamination:
    """Finds the items of which one document contains a share of `share` or more of the n-grams.

    Items of fewer than `ngram` words are not searched for: they would be found by chance.

    Args:
        common: n-grams that more items than this share are ignored, as they identify none of them; None keeps all.
    """

    def __init__(
        self, items: list[HeldOutQuestion], ngram: int = NGRAM, share: float = SHARE, common: int | None = None
    ) -> None:
        self.items = items
        self._ngram = ngram
        self._share = share
        self._sizes = [0] * len(items)
        self._grams: dict[str, list[int]] = {}
        for number, item in enumerate(items):
            for gram in set(_grams(item.words, ngram)):
                self._grams.setdefault(gram, []).append(number)
        if common is not None:
            self._grams = {gram: owners for gram, owners in self._grams.items() if len(owners) <= common}
        # Shares are of the n-grams that are searched for; those left out as common count for nobody.
        for owners in self._grams.values():
            for number in owners:
                self._sizes[number] += 1

    @property
    def searched(self) -> int:
        """Items that are long enough."""
        return sum(size > 0 for size in self._sizes)

    def find(self, text: str) -> list[tuple[int, float]]:
        """(item number, share of its n-grams that are in the text), of the items found."""
        hits: Counter[int] = Counter()
        # An intersection of sets, so a text costs the same for one evaluation set as for twenty.
        for gram in self._grams.keys() & set(_grams(prompt_words(text), self._ngram)):
            hits.update(self._grams[gram])
        shares = ((number, count / self._sizes[number]) for number, count in sorted(hits.items()))
        return [(number, share) for number, share in shares if share >= self._share]


def _grams(words: tuple[str, ...], size: int) -> Iterator[str]:
    return map(" ".join, zip(*(words[start:] for start in range(size))))


def contamination_report(
    items: list[HeldOutQuestion], papers: list[dict[str, Any]], hashes: dict[str, str]
) -> dict[str, Any]:
    """The content of decontamination.json.

    Args:
        papers: one `{paper_id, source, line, items: [[item number, share]], removed}` for each contaminated paper.
        hashes: sha256 of every evaluation file, by name.
    """
    searched = [item for item in items if len(item.words) >= NGRAM]
    sets = [
        {
            "file": name,
            "sha256": sha256,
            "items": sum(item.file == name for item in items),
            "searched": sum(item.file == name for item in searched),
        }
        for name, sha256 in hashes.items()
    ]
    kept = {number for paper in papers if not paper["removed"] for number, _ in paper["items"]}
    numbers = sorted({number for paper in papers for number, _ in paper["items"]})
    return {
        "version": 1,
        "ngram_words": NGRAM,
        "share": SHARE,
        "sets": sets,
        "items": [
            {
                "set": items[n].file,
                "item_id": items[n].item_id,
                "prompt_sha256": items[n].prompt_sha256,
                "in_store": n in kept,
            }
            for n in numbers
        ],
        "papers": [
            {**paper, "items": [[items[n].file, items[n].item_id, round(s, 3)] for n, s in paper["items"]]}
            for paper in papers
        ],
    }
