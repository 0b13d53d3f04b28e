"""Records that the project makes itself, in the layout of the Semantic Scholar Datasets API, for machines without data.

Every statement is true: molecular properties are computed by rdkit from the structure, the rest are textbook facts
(facts_molecules.py, facts_biology.py). Authors and references are generic, so that cleaning has spans to remove and no
person is invented.
"""

from __future__ import annotations

import gzip
import io
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from megabiomed.checkpoint.files import write_atomic
from megabiomed.corpus import facts_biology as biology
from megabiomed.corpus.facts_molecules import MOLECULES, Molecule

_FIRST_ID = 900_000_000


class _Text:
    """Builds content.text together with content.annotations."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.length = 0
        self.spans: dict[str, list[dict[str, Any]]] = {}

    def add(self, text: str, *kinds: str, after: str = "\n\n") -> None:
        for kind in kinds:
            self.spans.setdefault(kind, []).append({"start": self.length, "end": self.length + len(text)})
        self.parts.append(text + after)
        self.length += len(text) + len(after)

    def paragraph(self, sentences: list[str], citations: int) -> None:
        """A paragraph whose sentences cite references [1] to [citations] in turn."""
        begin = self.length
        for number, sentence in enumerate(sentences):
            self.add(sentence, after=" ")
            if number % 3 == 2:
                self.add(f"[{number // 3 % citations + 1}]", "bibref", after=" ")
        self.spans.setdefault("paragraph", []).append({"start": begin, "end": self.length - 1})
        self.add("", after="\n\n")


def generate_records(papers: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Yield `papers` records, the same ones for the same seed; each has a PubMed Central and a PubMed id."""
    for number in range(papers):
        yield _record(number, random.Random(f"{seed}/{number}"))


def write_records(path: Path, papers: int, seed: int = 0) -> int:
    """Write records as .jsonl.gz, byte for byte the same for the same arguments.

    Returns:
        characters of text in all papers.
    """
    buffer, characters = io.BytesIO(), 0
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped:
        for record in generate_records(papers, seed):
            characters += len(record["content"]["text"])
            zipped.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())
    return characters


def _record(number: int, rng: random.Random) -> dict[str, Any]:
    molecules = rng.sample(MOLECULES, 4)
    text = _Text()
    text.add(_title(molecules, rng), "title")
    for author in ("Author One", "Author Two", "Author Three")[: rng.randint(1, 3)]:
        text.add(author, "author", after=", ")
    text.add(f"Institute {rng.randint(1, 40)} of Biomedicine", "authoraffiliation")
    text.add(" ".join([_about(molecules[0], rng), *_facts(rng, 2)]), "abstract")
    references = 3
    text.add("1 Introduction", "sectionheader")
    text.paragraph(_facts(rng, 7), references)
    text.add("2 Molecular properties", "sectionheader")
    for molecule in molecules:
        text.paragraph([_about(molecule, rng), *_properties(molecule, rng)], references)
    text.add(f"Figure 1: Structure of {molecules[0].name}.", "figurecaption", "figure")
    text.add("3 Comparison", "sectionheader")
    text.paragraph(_comparisons(molecules, rng), references)
    text.add(_as_table(molecules), "table")
    text.add("4 Discussion", "sectionheader")
    text.paragraph(_facts(rng, 8), references)
    text.add("References", "sectionheader")
    for reference in range(references):
        text.add(
            f"[{reference + 1}] Reference work on {rng.choice(molecules).name}, chapter {reference + 1}.", "bibentry"
        )
    return _envelope(number, text)


def _envelope(number: int, text: _Text) -> dict[str, Any]:
    kinds = ("abstract", "author", "authoraffiliation", "bibentry", "bibref", "figure", "figurecaption", "figureref")
    kinds += ("formula", "paragraph", "publisher", "sectionheader", "table", "tableref", "title", "venue")
    annotations = {kind: json.dumps(text.spans[kind]) if kind in text.spans else None for kind in kinds}
    ids = {"arxiv": None, "mag": None, "acl": None, "dblp": None, "doi": None}
    return {
        "corpusid": _FIRST_ID + number,
        "externalids": {**ids, "pubmed": str(90_000_000 + number), "pubmedcentral": str(9_000_000 + number)},
        "content": {
            "source": {"pdfurls": None, "pdfsha": None, "oainfo": None},
            "text": "".join(text.parts),
            "annotations": annotations,
        },
        "updated": "2020-01-01T00:00:00Z",
    }


def _title(molecules: list[Molecule], rng: random.Random) -> str:
    a, b = molecules[0].name, molecules[1].name
    return rng.choice(
        [
            f"Structure and properties of {a} compared with {b}",
            f"Physicochemical descriptors of {a} and {b}",
            f"{a[0].upper() + a[1:]}, {b} and their place in physiology",
            f"From structure to function: {a} and {b}",
        ]
    )


def _about(molecule: Molecule, rng: random.Random) -> str:
    name = molecule.name[0].upper() + molecule.name[1:]
    return rng.choice(
        [
            f"{name} is {molecule.role}; it {molecule.use}.",
            f"{name}, {molecule.role}, {molecule.use}.",
            f"As {molecule.role}, {molecule.name} {molecule.use}.",
        ]
    )


@lru_cache(maxsize=512)
def properties(smiles: str) -> dict[str, Any]:
    """Formula, average weight and descriptors of a molecule, by rdkit. `drug_like`: Lipinski's four limits all hold."""
    from rdkit import Chem
    from rdkit.Chem import Crippen, Descriptors, Lipinski, rdMolDescriptors

    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None, smiles
    found = {
        "formula": rdMolDescriptors.CalcMolFormula(mol),
        "weight": Descriptors.MolWt(mol),
        "logp": Crippen.MolLogP(mol),
        "donors": Lipinski.NumHDonors(mol),
        "acceptors": Lipinski.NumHAcceptors(mol),
        "rings": rdMolDescriptors.CalcNumRings(mol),
        "rotatable": rdMolDescriptors.CalcNumRotatableBonds(mol),
        "tpsa": rdMolDescriptors.CalcTPSA(mol),
        "atoms": mol.GetNumHeavyAtoms(),
    }
    limits = found["weight"] <= 500, found["logp"] <= 5, found["donors"] <= 5, found["acceptors"] <= 10
    return {**found, "drug_like": all(limits)}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _properties(molecule: Molecule, rng: random.Random) -> list[str]:
    p, name = properties(molecule.smiles), molecule.name
    sentences = [
        f"The molecular formula of {name} is {p['formula']}.",
        f"Its average molecular weight is {p['weight']:.2f} g/mol.",
        f"The calculated partition coefficient (Crippen logP) of {name} is {p['logp']:.2f}.",
        f"It has {_plural(p['donors'], 'hydrogen bond donor')} and {_plural(p['acceptors'], 'hydrogen bond acceptor')}.",
        f"The structure of {name} contains {_plural(p['rings'], 'ring')} and {_plural(p['atoms'], 'heavy atom')}.",
        f"The topological polar surface area is {p['tpsa']:.1f} square angstroms.",
        f"{name[0].upper() + name[1:]} has {_plural(p['rotatable'], 'rotatable bond')}.",
        f"Its structure is written in SMILES as {molecule.smiles}.",
        f"{name[0].upper() + name[1:]} {'meets' if p['drug_like'] else 'does not meet'} all limits of the rule of five.",
    ]
    return rng.sample(sentences, rng.randint(5, 8))


def _comparisons(molecules: list[Molecule], rng: random.Random) -> list[str]:
    sentences = []
    for a, b in zip(molecules, molecules[1:]):
        first, second = properties(a.smiles), properties(b.smiles)
        for key, noun in (
            ("weight", "a molecular weight"),
            ("tpsa", "a polar surface area"),
            ("logp", "a calculated logP"),
        ):
            x, y = round(first[key], 2), round(second[key], 2)
            relation = (
                f"the same {noun.split(maxsplit=1)[1]} as"
                if x == y
                else f"{noun} {'above' if x > y else 'below'} that of"
            )
            name = a.name[0].upper() + a.name[1:]
            sentences.append(f"{name} has {relation} {b.name} ({x:.2f} and {y:.2f}).")
    return rng.sample(sentences, 6)


def _as_table(molecules: list[Molecule]) -> str:
    rows = (f"{m.name} {properties(m.smiles)['formula']} {properties(m.smiles)['weight']:.2f}" for m in molecules)
    return "Table 1: Formula and weight. " + "; ".join(rows)


def _facts(rng: random.Random, count: int) -> list[str]:
    makers = (_amino_acid, _vitamin, _hormone, _enzyme, _infection, _organ, _gene)
    return [rng.choice(makers)(rng) for _ in range(count)]


def _amino_acid(rng: random.Random) -> str:
    a = rng.choice(biology.AMINO_ACIDS)
    codons = _plural(len(a.codons), "codon")
    return rng.choice(
        [
            f"The amino acid {a.name} ({a.three}, {a.one}) is encoded by {codons}: {', '.join(a.codons)}.",
            f"{a.name.capitalize()} is {a.kind} amino acid with the one-letter code {a.one}.",
            f"In the standard genetic code, {rng.choice(a.codons)} encodes {a.name}.",
        ]
    )


def _vitamin(rng: random.Random) -> str:
    vitamin, chemical, disease = rng.choice(biology.VITAMINS)
    return rng.choice(
        [f"Deficiency of {vitamin} ({chemical}) causes {disease}.", f"The chemical name of {vitamin} is {chemical}."]
    )


def _hormone(rng: random.Random) -> str:
    hormone, gland, effect = rng.choice(biology.HORMONES)
    name = hormone[0].upper() + hormone[1:]
    return rng.choice([f"{name} is released by {gland} and {effect}.", f"{name}, a hormone of {gland}, {effect}."])


def _enzyme(rng: random.Random) -> str:
    enzyme, substrate, reaction = rng.choice(biology.ENZYMES)
    name = enzyme[0].upper() + enzyme[1:]
    return rng.choice(
        [f"The enzyme {enzyme} acts on {substrate}: it {reaction}.", f"{name} acts on {substrate} and {reaction}."]
    )


def _infection(rng: random.Random) -> str:
    disease, kind, pathogen = rng.choice(biology.INFECTIONS)
    cause = pathogen if "virus" in pathogen else f"{kind} {pathogen}"
    name = disease[0].upper() + disease[1:]
    return rng.choice([f"{name} is caused by the {cause}.", f"The {cause} is the cause of {disease}."])


def _organ(rng: random.Random) -> str:
    organ, system, function = rng.choice(biology.ORGANS)
    return rng.choice(
        [f"The {organ} belongs to the {system} and {function}.", f"As a part of the {system}, the {organ} {function}."]
    )


def _gene(rng: random.Random) -> str:
    gene, disease, inheritance = rng.choice(biology.GENETICS)
    name = disease[0].upper() + disease[1:]
    return rng.choice(
        [
            f"Pathogenic variants of the gene {gene} cause {disease}, which is inherited as an {inheritance} trait.",
            f"{name} is an {inheritance} disease caused by variants of {gene}.",
        ]
    )
