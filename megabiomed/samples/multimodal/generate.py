"""A question set that the project makes itself: facts that rdkit computes of molecules and counts of protein sequences."""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path
from typing import Any

_CORES = ("CC{}", "CCC{}", "CC(C){}", "CCCCC{}", "C1CCCC1{}", "C1CCCCC1{}", "c1ccccc1{}", "Cc1ccc({})cc1", "c1ccncc1{}",
          "c1ccc2ccccc2c1{}", "O=C(C){}", "CC(=O)N{}", "C=CC{}", "COC{}", "CN(C)C{}")  # fmt: skip
_ENDS = ("F", "Cl", "Br", "I", "O", "N", "S", "C#N", "C(=O)O", "CF", "CCl", "CBr", "CI", "CO", "CCN")
_HALOGENS = {"F": "fluorine", "Cl": "chlorine", "Br": "bromine", "I": "iodine"}
_RESIDUES = {"A": "alanine", "K": "lysine", "L": "leucine", "W": "tryptophan", "G": "glycine", "D": "aspartate"}


def generate_questions(path: Path, proteins: int = 300, seed: int = 0) -> int:
    """Write OpenBioMed v2's layout; returns the number of questions."""
    questions = [*_molecules(), *_proteins(proteins, seed)]
    random.Random(seed).shuffle(questions)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(questions, indent=0))
    return len(questions)


def _molecules() -> list[dict[str, Any]]:
    from rdkit import Chem

    found = {}
    for core, end in product(_CORES, _ENDS):
        molecule = Chem.MolFromSmiles(core.format(end))
        if molecule is not None:
            # Canonical: a molecule that two cores and ends make is asked about once.
            found[Chem.MolToSmiles(molecule)] = molecule
    return [_molecule(smiles, molecule) for smiles, molecule in sorted(found.items())]


def _molecule(smiles: str, molecule: Any) -> dict[str, Any]:
    elements = {atom.GetSymbol() for atom in molecule.GetAtoms()}
    halogen = next((name for symbol, name in _HALOGENS.items() if symbol in elements), "no halogen")
    ring = "aromatic" if any(a.GetIsAromatic() for a in molecule.GetAtoms()) else (
        "aliphatic" if molecule.GetRingInfo().NumRings() else "no")  # fmt: skip
    answer = f"The molecule contains {halogen} and {ring} ring."
    return {"smiles": [smiles], "sequence": None, "question": "What does this molecule contain?", "answer": answer}


def _proteins(count: int, seed: int) -> list[dict[str, Any]]:
    rng, found = random.Random(seed + 1), []
    for _ in range(count):
        favourite = rng.choice(list(_RESIDUES))
        length = rng.randint(10, 30)
        sequence = "M" + "".join(
            favourite if rng.random() < 0.6 else rng.choice("ACDEFGHIKLNPQRSTVWY") for _ in range(length)
        )
        # Of equally frequent residues the later letter, so that one answer is right.
        most = max(_RESIDUES, key=lambda letter: (sequence.count(letter), letter))
        answer = f"The most frequent residue is {_RESIDUES[most]}."
        found.append(
            {"smiles": None, "sequence": [sequence], "question": "Which residue is frequent?", "answer": answer}
        )
    return found
