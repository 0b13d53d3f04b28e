"""SMILES to the graph features of pretrain-gnns and GraphMVP (Hu et al. 2020, arXiv 1905.12265; Liu et al. 2022).

What the originals crash on has a defined meaning here: unknown elements take the 'misc' row, unknown bond kinds and
stereo marks take row 0. What cannot be a graph is a `MoleculeError` with a short reason, never a silent skip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from megabiomed.encoders.modality import ItemError

MISC_ATOM = 118
_CHIRALITY = {"CHI_UNSPECIFIED": 0, "CHI_TETRAHEDRAL_CW": 1, "CHI_TETRAHEDRAL_CCW": 2}
_BOND = {"SINGLE": 0, "DOUBLE": 1, "TRIPLE": 2, "AROMATIC": 3}
_DIRECTION = {"NONE": 0, "ENDUPRIGHT": 1, "ENDDOWNRIGHT": 2}
# Atoms in brackets, or elements that SMILES writes without.
_ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")
_HYDROGEN = re.compile(r"\[\d*H\d*[+-]*\d*(:\d+)?\]")
Salts = Literal["keep", "largest", "refuse"]


class MoleculeError(ItemError):
    """A SMILES that gives no graph; the reason is one of empty, invalid, salt, too_large."""

    modality = "molecule"

    def __init__(self, reason: str, smiles: str, detail: str) -> None:
        super().__init__(reason, f"{smiles[:80]!r}", detail)


@dataclass(frozen=True)
class Molecule:
    """A graph of n atoms and e directed edges (each bond twice).

    Attributes:
        atoms: [n, 2] uint8: atomic number - 1 (or MISC_ATOM), chirality.
        edges: [2, e] uint16: source and target atom.
        bonds: [e, 2] uint8: bond kind, direction.
    """

    atoms: NDArray[np.uint8]
    edges: NDArray[np.uint16]
    bonds: NDArray[np.uint8]

    @property
    def rows(self) -> int:
        """Embeddings that the encoder makes of it: one an atom."""
        return len(self.atoms)

    def resized(self, rows: int) -> Molecule:
        """So many of its atoms, repeated where it has fewer, with the bonds between those that are left."""
        keep = (self.edges < rows).all(axis=0)
        return Molecule(np.resize(self.atoms, (rows, 2)), self.edges[:, keep], self.bonds[keep])


def featurise(smiles: str, max_atoms: int = 256, salts: Salts = "keep") -> Molecule:
    """Graph of a SMILES, atoms in the order of the string.

    Args:
        max_atoms: larger molecules are refused.
        salts: what to do with several fragments: keep all, keep the largest, or refuse.

    Raises:
        MoleculeError: empty, unreadable, a refused salt, or too large.
    """
    least = least_atoms(smiles, whole=salts == "keep")
    if least > max_atoms:  # before rdkit, whose time grows faster than the molecule
        raise MoleculeError("too_large", smiles, f"at least {least} atoms, at most {max_atoms}")
    return graph_of(_parse(smiles, salts), smiles, max_atoms)


def least_atoms(smiles: str, whole: bool = True) -> int:
    """Atoms that rdkit makes of a SMILES at least, counted in its text. Hydrogens, which it removes, do not count.

    Args:
        whole: of all fragments, else of the largest.
    """
    text = (smiles.split() or [""])[0]  # a name may follow
    fragments = [text] if whole else text.split(".")
    return max(sum(_HYDROGEN.fullmatch(atom) is None for atom in _ATOM.findall(part)) for part in fragments)


def graph_of(molecule: Any, smiles: str, max_atoms: int = 256) -> Molecule:
    """Graph of an rdkit molecule."""
    count = molecule.GetNumAtoms()
    if count == 0:
        raise MoleculeError("empty", smiles, "no atoms")
    if count > max_atoms:
        raise MoleculeError("too_large", smiles, f"{count} atoms, at most {max_atoms}")
    atoms = [(_element(atom), _CHIRALITY.get(str(atom.GetChiralTag()), 0)) for atom in molecule.GetAtoms()]
    edges, bonds = [], []
    for bond in molecule.GetBonds():
        begin, end = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        feature = _BOND.get(str(bond.GetBondType()), 0), _DIRECTION.get(str(bond.GetBondDir()), 0)
        edges += [(begin, end), (end, begin)]
        bonds += [feature, feature]
    return Molecule(
        np.array(atoms, np.uint8),
        np.array(edges, np.uint16).reshape(-1, 2).T.copy(),
        np.array(bonds, np.uint8).reshape(-1, 2),
    )


def _element(atom: Any) -> int:
    number = atom.GetAtomicNum()
    return number - 1 if 1 <= number <= MISC_ATOM else MISC_ATOM


def _parse(smiles: str, salts: Salts) -> Any:
    from rdkit import Chem, rdBase

    if not smiles.strip():
        raise MoleculeError("empty", smiles, "no text")
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles.strip())
    if molecule is None:
        raise MoleculeError("invalid", smiles, "rdkit cannot read it")
    fragments = Chem.GetMolFrags(molecule, asMols=salts == "largest")
    if len(fragments) > 1 and salts == "refuse":
        raise MoleculeError("salt", smiles, f"{len(fragments)} fragments")
    if len(fragments) > 1 and salts == "largest":
        return max(fragments, key=lambda part: (part.GetNumHeavyAtoms(), part.GetNumAtoms()))
    return molecule
