"""What every reader of the corpus produces: a `Paper` with its marked spans, and an account of what was rejected."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from megabiomed.ground.errors import DataError


@dataclass(frozen=True)
class Span:
    """A marked piece of a paper: `text[start:end]`, in characters (code points), `0 <= start < end <= len(text)`."""

    start: int
    end: int
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """One paper as it was published, before cleaning.

    Attributes:
        paper_id: the Semantic Scholar corpus id, as text.
        ids: external ids under lower-case keys (`pmc` without its "PMC", `pubmed`, `doi`, `arxiv`, ...); none empty.
        title: may be empty.
        year: of publication, or None where the layout does not tell.
        text: everything, header and bibliography included.
        spans: S2ORC's annotation name (`title`, `author`, `bibentry`, `paragraph`, ...) to its spans, sorted by start.
        source: name of the file.
        line: number of the line in it, from 1.
        offset: byte offset of that line in the uncompressed file.
        fields: of study, as far as the layout tells.
        references: id of a cited work (a `bibref` span's `ref_id`) to its title and its first author's last name, in
            layouts that list them apart from the text.
        licence: as `parse_licence` names it; empty where the layout does not tell.
    """

    paper_id: str
    ids: dict[str, str]
    title: str
    year: int | None
    text: str
    spans: dict[str, list[Span]]
    source: str
    line: int
    offset: int
    fields: tuple[str, ...] = ()
    references: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    licence: str = ""

    @property
    def is_abstract(self) -> bool:
        """Whether the text consists of its marked abstract, and perhaps a title, and nothing more."""
        if "abstract" not in self.spans:
            return False
        # Whatever lies between the marked spans must be white space.
        place = 0
        for span in sorted([*self.spans.get("title", []), *self.spans["abstract"]], key=lambda span: span.start):
            if self.text[place : span.start].strip():
                return False
            place = max(place, span.end)
        return not self.text[place:].strip()


class Rejects:
    """Counts by reason what a reader refused, and keeps the first few places of each reason.

    A reason begins with what was lost: `input:` a part of a file, `record:` a paper, `field:` a part of a record,
    `span:` a span or a list of spans.

    Args:
        keep: samples to keep per reason.
        strict: raise `DataError` at the first reject instead of counting.
    """

    def __init__(self, keep: int = 3, strict: bool = False) -> None:
        self.keep, self.strict = keep, strict
        self.counts: Counter[str] = Counter()
        self.samples: dict[str, list[str]] = {}

    def add(self, reason: str, where: str, detail: str = "", count: int = 1) -> None:
        """Count one reject. `where` is `file:line`, `detail` a short description of what is wrong there."""
        # A sample may quote a record of megabytes.
        sample = f"{where}: {detail[:200]}" if detail else where
        sample = sample.encode("utf-8", "backslashreplace").decode()  # JSON in JSON, or a file name, may not be UTF-8
        if self.strict:
            raise DataError(reason, got=sample, do="repair or remove it, or read with a Rejects() that counts")
        self.counts[reason] += count
        kept = self.samples.setdefault(reason, [])
        if len(kept) < self.keep:
            kept.append(sample)

    def merge(self, other: Rejects) -> None:
        """Take over the counts and (up to `keep`) the samples of another collector, for example of another process."""
        self.counts.update(other.counts)
        for reason, samples in other.samples.items():
            kept = self.samples.setdefault(reason, [])
            kept.extend(samples[: max(0, self.keep - len(kept))])

    @property
    def records(self) -> int:
        """Papers lost, over all reasons."""
        return sum(count for reason, count in self.counts.items() if reason.startswith("record:"))

    def lines(self) -> Iterator[str]:
        """A report for people: each reason with its count, then its samples."""
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            yield f"{reason}: {count}"
            yield from (f"    {sample}" for sample in self.samples[reason])
