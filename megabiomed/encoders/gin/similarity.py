"""Which molecules are relatives: scaffolds and fingerprints."""

from __future__ import annotations

from typing import Any

_MOST_ATOMS = 512
_LONGEST = 4000
"""Characters. rdkit needs 0.2 s for the scaffold of 500 atoms in a row, and minutes for 2,000."""


def scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold; molecules without rings, and too large ones, are their own.

    What is too large depends on the text alone, not on the speed of a machine, so that a split can be made again.
    """
    from rdkit import rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from megabiomed.encoders.gin.featurise import least_atoms

    if len(smiles) > _LONGEST or least_atoms(smiles) > _MOST_ATOMS:
        return smiles
    try:
        with rdBase.BlockLogs():
            return str(MurckoScaffold.MurckoScaffoldSmiles(smiles=smiles)) or smiles
    except (ValueError, RuntimeError):
        return smiles


def morgan(smiles: str) -> Any:
    """Morgan fingerprint (radius 2, 2,048 bits)."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    with rdBase.BlockLogs():
        return generator.GetFingerprint(Chem.MolFromSmiles(smiles))
