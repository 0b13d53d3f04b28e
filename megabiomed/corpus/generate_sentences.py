"""Sentences of the generated papers. Each maker takes facts and a random generator, and returns one true sentence."""

from __future__ import annotations

import random
from collections.abc import Callable

from megabiomed.corpus import facts_biology as biology
from megabiomed.corpus.facts_molecules import Molecule, peptide_weight, properties

_COMPLEMENT = str.maketrans("ACGT", "TGCA")


def capital(text: str) -> str:
    """The text with its first letter upper case and the rest as it is."""
    return text[:1].upper() + text[1:]


def plural(count: int, noun: str) -> str:
    """ "1 ring", "2 rings"."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def article(noun: str) -> str:
    """The noun after "a" or "an", by its sound: the u of the tables is spoken "you", their abbreviations as letters."""
    vowel = noun[0].lower() in "aeio" or noun.startswith(("NMDA", "RNA", "X-linked"))
    return f"an {noun}" if vowel else f"a {noun}"


def about(m: Molecule, rng: random.Random) -> str:
    """What a molecule is and what it is used for or does."""
    kind, statement = article(m.kind), m.statement
    sentences = [
        f"{capital(m.name)} is {kind}; it is {statement}.",
        f"{capital(m.name)}, {kind}, is {statement}.",
        f"As is well known, {m.name} is {statement}.",
        f"The {m.kind} {m.name} is {statement}.",
    ]
    if m.action:
        sentences += [f"{capital(m.name)} is {kind} that {m.action}.", f"It is established that {m.name} {m.action}."]
    return rng.choice(sentences)


def described(m: Molecule, rng: random.Random) -> list[str]:
    """The formula and two to four more computed properties of a molecule, in a fixed order."""
    p, name = properties(m.smiles), capital(m.name)
    donors, acceptors = plural(p.donors, "hydrogen bond donor"), plural(p.acceptors, "hydrogen bond acceptor")
    limits = "meets all four limits" if not p.violations else f"exceeds {plural(p.violations, 'limit')}"
    sentences = [
        f"The molecular formula of {m.name} is {p.formula}.",
        f"Its average molecular weight is {p.weight:.2f} g/mol.",
        f"The Crippen logP of {m.name} is {p.logp:.2f}.",
        f"It has {donors} and {acceptors}.",
        f"The structure of {m.name} contains {plural(p.rings, 'ring')} and {plural(p.heavy_atoms, 'heavy atom')}.",
        f"The topological polar surface area is {p.polar_surface:.1f} square angstroms.",
        f"{name} has {plural(p.rotatable_bonds, 'rotatable bond')}.",
        f"Without stereochemistry, {m.name} is written in SMILES as {m.smiles}.",
        f"{name} {limits} of the rule of five.",
    ]
    # The formula, at 0, is always there and comes first.
    chosen = sorted(rng.sample(range(1, len(sentences)), rng.randint(2, 4)))
    return [sentences[index] for index in (0, *chosen)]


def compared(a: Molecule, b: Molecule, rng: random.Random) -> str:
    """One property of two molecules, compared as printed."""
    key, noun, digits = rng.choice(
        [
            ("weight", "molecular weight", 2),
            ("logp", "Crippen logP", 2),
            ("polar_surface", "polar surface area", 1),
            ("heavy_atoms", "number of heavy atoms", 0),
            ("rotatable_bonds", "number of rotatable bonds", 0),
        ]
    )
    # As printed, so that the sentence is true of the figures that it shows.
    left, right = (f"{getattr(properties(m.smiles), key):.{digits}f}" for m in (a, b))
    if left == right:
        return f"{capital(a.name)} and {b.name} have the same {noun} ({left})."
    if float(left) > float(right):
        return f"The {noun} of {a.name} ({left}) is higher than that of {b.name} ({right})."
    return f"The {noun} of {a.name} ({left}) is lower than that of {b.name} ({right})."


def summarised(molecules: list[Molecule], rng: random.Random) -> str:
    """A statement over all molecules of a paper."""
    many = plural(len(molecules), "molecule")
    weights = sorted((round(properties(m.smiles).weight, 2), m.name) for m in molecules)
    passing = sum(properties(m.smiles).violations == 0 for m in molecules)
    mean = sum(weight for weight, _ in weights) / len(weights)
    sentences = [
        f"The mean molecular weight of the {many} is {mean:.2f} g/mol.",
        f"The number of molecules that meet all limits of the rule of five is {passing} of {len(molecules)}.",
    ]
    # With two equal weights at the top there is no heaviest one.
    if weights[-1][0] > weights[-2][0]:
        sentences.append(f"The heaviest of the {many} is {weights[-1][1]}.")
    if weights[0][0] < weights[1][0]:
        sentences.append(f"The lightest of the {many} is {weights[0][1]}.")
    return rng.choice(sentences)


def fact(rng: random.Random) -> str:
    """One statement of biology or medicine."""
    return rng.choice(_MAKERS)(rng)


def _amino_acid(rng: random.Random) -> str:
    a = rng.choice(biology.AMINO_ACIDS)
    return rng.choice(
        [
            f"The amino acid {a.name} ({a.three}, {a.one}) is encoded by {plural(len(a.codons), 'codon')}: "
            f"{', '.join(a.codons)}.",
            f"{capital(a.name)} is {a.kind} amino acid with the one-letter code {a.one}.",
            f"In the standard genetic code, {rng.choice(a.codons)} encodes {a.name}.",
            # A residue lacks the water that its bonds have given off, 18.015 g/mol.
            f"The residue of {a.name} adds {peptide_weight(a.one) - 18.015:.2f} to the weight of a protein.",
        ]
    )


def _peptide(rng: random.Random) -> str:
    chain = [rng.choice(biology.AMINO_ACIDS) for _ in range(rng.randint(2, 4))]
    names, letters = "-".join(a.three for a in chain), "".join(a.one for a in chain)
    codons = " ".join(rng.choice(a.codons) for a in chain)
    return rng.choice(
        [
            f"The peptide {names} has an average weight of {peptide_weight(letters):.2f} g/mol.",
            f"The codons {codons} are translated to {names}.",
            f"In one-letter code, the peptide {names} is {letters}.",
        ]
    )


def _strand(rng: random.Random) -> str:
    strand = "".join(rng.choice("ACGT") for _ in range(6))
    other = strand.translate(_COMPLEMENT)
    return rng.choice(
        [
            f"The DNA strand 5'-{strand}-3' pairs with 3'-{other}-5'.",
            f"Guanine and cytosine make up {sum(base in 'GC' for base in strand)} of the six bases of {strand}.",
        ]
    )


def _vitamin(rng: random.Random) -> str:
    vitamin, chemical, disease = rng.choice(biology.VITAMINS)
    return rng.choice(
        [f"Deficiency of {vitamin} ({chemical}) causes {disease}.", f"The chemical name of {vitamin} is {chemical}."]
    )


def _hormone(rng: random.Random) -> str:
    hormone, gland, effect = rng.choice(biology.HORMONES)
    return rng.choice(
        [
            f"{capital(hormone)} is released by {gland} and {effect}.",
            f"{capital(hormone)}, a hormone of {gland}, {effect}.",
        ]
    )


def _enzyme(rng: random.Random) -> str:
    enzyme, substrate, reaction = rng.choice(biology.ENZYMES)
    return rng.choice(
        [
            f"The enzyme {enzyme} acts on {substrate}: it {reaction}.",
            f"{capital(enzyme)} acts on {substrate} and {reaction}.",
        ]
    )


def _infection(rng: random.Random) -> str:
    disease, kind, pathogen = rng.choice(biology.INFECTIONS)
    agent = f"the {pathogen}" if kind in pathogen else f"the {kind} {pathogen}"
    return rng.choice([f"{capital(disease)} is caused by {agent}.", f"{capital(agent)} causes {disease}."])


def _organ(rng: random.Random) -> str:
    organ, system, function = rng.choice(biology.ORGANS)
    return rng.choice(
        [f"The {organ} belongs to the {system} and {function}.", f"As a part of the {system}, the {organ} {function}."]
    )


def _gene(rng: random.Random) -> str:
    gene, disease, inheritance = rng.choice(biology.GENETICS)
    return rng.choice(
        [
            f"Pathogenic variants of the gene {gene} cause {disease}, which is inherited as {article(inheritance)} "
            "trait.",
            f"{capital(disease)} is {article(inheritance)} disease caused by variants of {gene}.",
        ]
    )


def _mineral(rng: random.Random) -> str:
    element, place = rng.choice(biology.MINERALS)
    return f"The body needs {element} for {place}."


_MAKERS: tuple[Callable[[random.Random], str], ...] = (
    _amino_acid, _peptide, _strand, _vitamin, _hormone, _enzyme, _infection, _organ, _gene, _mineral,
)  # fmt: skip
