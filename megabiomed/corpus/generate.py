"""Records that the project makes itself, in the layout of the Semantic Scholar Datasets API, for machines without data.

Every statement is true: molecular properties are computed by rdkit from the structure, the rest are textbook facts of
the fact tables. Authors and references are generic, so that cleaning has spans to remove and no person is invented.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megabiomed.corpus.facts_molecules import MOLECULES, Molecule, properties
from megabiomed.corpus.generate_sentences import about, capital, compared, described, fact, plural, summarised
from megabiomed.ground.files import write_atomic

PAPERS = 600
"""Papers of the default corpus, about 1.5 million characters with headers and bibliographies."""

# Far above the ids that Semantic Scholar has given, so that a generated paper is not taken for a real one.
_FIRST_ID = 900_000_000
# All names of the layout: those that a paper lacks are null there.
_KINDS = (
    "abstract", "author", "authoraffiliation", "authorfirstname", "authorlastname", "bibauthor", "bibauthorfirstname",
    "bibauthorlastname", "bibentry", "bibref", "bibtitle", "bibvenue", "figure", "figurecaption", "figureref",
    "formula", "paragraph", "publisher", "sectionheader", "table", "tableref", "title", "venue",
)  # fmt: skip
_REFERENCES = 3
_METHODS = (
    "Descriptors were computed with RDKit from structures without stereochemistry.",
    "The partition coefficient was estimated by the method of Crippen.",
    "The topological polar surface area was summed over nitrogen and oxygen atoms.",
    "The rule of five limits the weight to 500 g/mol, logP to 5, donors to 5 and acceptors to 10.",
    "Molecular weights are averages over the natural isotopes.",
    "Hydrogen atoms are not counted among the heavy atoms.",
    "Codons are written as messenger RNA, from the 5' end to the 3' end.",
    "Peptide weights are those of linear chains with free ends.",
)


def generate_records(papers: int = PAPERS, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `papers` records, the same ones for the same seed; each has a PubMed Central and a PubMed id."""
    # A generator of random numbers per paper: the first papers are the same, however many are made.
    for number in range(papers):
        yield _record(number, random.Random(f"{seed}/{number}"))


def write_records(path: Path, papers: int = PAPERS, seed: int = 0) -> int:
    """Write records as .jsonl.gz, complete or not at all, byte for byte the same for the same arguments.

    Returns:
        characters of text in all papers.
    """
    buffer, characters = io.BytesIO(), 0
    # gzip would write name and time into its header: the same records would be other bytes every second.
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as zipped:
        for record in generate_records(papers, seed):
            characters += len(record["content"]["text"])
            zipped.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return characters


class _Text:
    """Builds content.text together with content.annotations."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.length = 0
        self.spans: dict[str, list[dict[str, Any]]] = {}

    def add(self, text: str, *kinds: str, after: str = "\n\n", **attributes: str) -> None:
        span: dict[str, Any] = {"start": self.length, "end": self.length + len(text)}
        for kind in kinds:
            self.spans.setdefault(kind, []).append({**span, "attributes": attributes} if attributes else span)
        self.parts.append(text + after)
        self.length += len(text) + len(after)

    def paragraph(self, sentences: list[str]) -> None:
        """A paragraph in which every third sentence cites a reference before its full stop."""
        begin = self.length
        for number, sentence in enumerate(sentences):
            last = " " if number + 1 < len(sentences) else ""
            if number % 3 == 1:
                cited = number // 3 % _REFERENCES
                self.add(sentence.removesuffix("."), after=" ")
                self.add(f"[{cited + 1}]", "bibref", after="." + last, ref_id=f"b{cited}")
            else:
                self.add(sentence, after=last)
        self.spans.setdefault("paragraph", []).append({"start": begin, "end": self.length})
        self.add("")


def _record(number: int, rng: random.Random) -> dict[str, Any]:
    molecules = rng.sample(MOLECULES, rng.randint(3, 4))
    text = _Text()
    _header(text, molecules, rng)
    text.add("Introduction", "sectionheader", n="1.")
    text.paragraph([*(about(m, rng) for m in molecules), *(fact(rng) for _ in range(rng.randint(2, 3)))])
    text.add("Methods", "sectionheader", n="2.")
    text.paragraph(rng.sample(_METHODS, rng.randint(3, 4)))
    text.add("Results", "sectionheader", n="3.")
    for molecule in molecules:
        text.paragraph(described(molecule, rng))
    _display_items(text, molecules)
    text.add("Discussion", "sectionheader", n="4.")
    pairs = list(zip(molecules, molecules[1:]))
    text.paragraph([*(compared(a, b, rng) for a, b in pairs), summarised(molecules, rng)])
    text.paragraph([fact(rng) for _ in range(rng.randint(3, 6))])
    text.add("References", "sectionheader")
    for reference in range(_REFERENCES):
        title = f"Reference work on {molecules[reference].name}"
        text.add(
            f"[{reference + 1}] {title}, chapter {rng.randint(1, 30)}.", "bibentry", after="\n", id=f"b{reference}"
        )
    return _envelope(number, text)


def _header(text: _Text, molecules: list[Molecule], rng: random.Random) -> None:
    text.add(_title(molecules, rng), "title")
    for ordinal in ("One", "Two", "Three")[: rng.randint(1, 3)]:
        begin = text.length
        text.add("Author", "authorfirstname", after=" ")
        text.add(ordinal, "authorlastname", after="")
        text.spans.setdefault("author", []).append({"start": begin, "end": text.length})
        text.add("", after=", ")
    text.add(f"Institute {rng.randint(1, 40)} of Biomedicine", "authoraffiliation")
    text.add("author@example.org")
    names = ", ".join(m.name for m in molecules)
    aim = f"We describe {plural(len(molecules), 'molecule')} by computed descriptors: {names}."
    text.add(" ".join([aim, about(molecules[0], rng), compared(molecules[0], molecules[1], rng)]), "abstract")


def _display_items(text: _Text, molecules: list[Molecule]) -> None:
    begin = text.length
    text.add("Formulas and weights are listed in", after=" ")
    text.add("Table 1", "tableref", after=", a structure is drawn in ", ref_id="tab_0")
    text.add("Figure 1", "figureref", after=".", ref_id="fig_0")
    text.spans["paragraph"].append({"start": begin, "end": text.length})
    text.add("")
    rows = ((m.name, properties(m.smiles)) for m in molecules)
    table = "Tabulated: " + "; ".join(f"{name} {p.formula} {p.weight:.2f} g/mol" for name, p in rows)
    text.add(table, "table", id="tab_0")
    text.add(f"Drawn: skeletal structure of {molecules[0].name}.", "figurecaption", "figure", id="fig_0")


def _title(molecules: list[Molecule], rng: random.Random) -> str:
    a, b = molecules[0], molecules[1]
    return rng.choice(
        [
            f"Structure and properties of {a.name} compared with {b.name}",
            f"Physicochemical descriptors of {a.name} and {b.name}",
            f"{capital(a.name)}, {b.name} and their place in physiology",
            f"From structure to function: {a.name} and {b.name}",
            f"A comparison of the {a.kind} {a.name} with the {b.kind} {b.name}",
            f"{capital(a.name)} and {b.name}: computed properties and known roles",
        ]
    )


def _envelope(number: int, text: _Text) -> dict[str, Any]:
    absent = dict.fromkeys(("arxiv", "mag", "acl", "dblp", "doi"))
    return {
        "corpusid": _FIRST_ID + number,
        "externalids": {**absent, "pubmed": str(90_000_000 + number), "pubmedcentral": str(9_000_000 + number)},
        "content": {
            "source": {"pdfurls": None, "pdfsha": None, "oainfo": None},
            "text": "".join(text.parts).rstrip(),
            "annotations": {kind: json.dumps(text.spans[kind]) if kind in text.spans else None for kind in _KINDS},
        },
        "updated": "2020-01-01T00:00:00Z",
    }
