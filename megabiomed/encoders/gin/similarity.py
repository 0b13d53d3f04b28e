"""Which molecules are relatives: scaffolds and fingerprints."""

from __future__ import annotations

from typing import Any


def scaffold(smiles: str) -> str:
    """Bemis-Murcko scaffold; molecules without rings are their own."""
    from rdkit import rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

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
