"""All molecules of the fact tables, and what rdkit computes about them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, Lipinski, rdMolDescriptors

from megabiomed.corpus.facts_actions import ACTIONS
from megabiomed.corpus.facts_drugs import DRUGS
from megabiomed.corpus.facts_metabolites import METABOLITES


@dataclass(frozen=True)
class Molecule:
    """One substance.

    Attributes:
        formula: written down by hand; a test compares it with the one of the structure.
        kind: its class, without article.
        statement: completes "NAME is ...".
        action: completes "NAME ..."; "" where none is known to the tables.
        smiles: structure without stereochemistry.
    """

    name: str
    formula: str
    kind: str
    statement: str
    action: str
    smiles: str


@dataclass(frozen=True)
class Properties:
    """Computed by rdkit: average weight in g/mol, Crippen logP, Lipinski counts, TPSA in square angstroms."""

    formula: str
    weight: float
    logp: float
    donors: int
    acceptors: int
    rings: int
    rotatable_bonds: int
    polar_surface: float
    heavy_atoms: int

    @property
    def violations(self) -> int:
        """How many of the four limits of Lipinski's rule of five are exceeded."""
        return sum((self.weight > 500, self.logp > 5, self.donors > 5, self.acceptors > 10))


@cache
def properties(smiles: str) -> Properties:
    """Formula, weight and descriptors of a structure."""
    mol = Chem.MolFromSmiles(smiles)
    assert mol is not None, smiles
    return Properties(
        formula=rdMolDescriptors.CalcMolFormula(mol),
        weight=Descriptors.MolWt(mol),
        logp=Crippen.MolLogP(mol),
        donors=Lipinski.NumHDonors(mol),
        acceptors=Lipinski.NumHAcceptors(mol),
        rings=rdMolDescriptors.CalcNumRings(mol),
        rotatable_bonds=rdMolDescriptors.CalcNumRotatableBonds(mol),
        polar_surface=rdMolDescriptors.CalcTPSA(mol),
        heavy_atoms=mol.GetNumHeavyAtoms(),
    )


@cache
def peptide_weight(sequence: str) -> float:
    """Average weight in g/mol of the linear peptide of one-letter codes, with free ends."""
    mol = Chem.MolFromSequence(sequence)
    assert mol is not None, sequence
    return float(Descriptors.MolWt(mol))


def _rows(table: str) -> list[list[str]]:
    return [row.split("|") for row in table.strip().splitlines()]


def _molecules() -> tuple[Molecule, ...]:
    actions = dict(_rows(ACTIONS))
    molecules = []
    for table, prefix in ((DRUGS, "used "), (METABOLITES, "")):
        for name, formula, kind, statement, smiles in _rows(table):
            molecules.append(Molecule(name, formula, kind, prefix + statement, actions.get(name, ""), smiles))
    return tuple(molecules)


MOLECULES = _molecules()
