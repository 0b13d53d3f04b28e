"""Prompt templates. A placeholder stands where the embeddings of a molecule or a protein go."""

from __future__ import annotations

import re
from dataclasses import dataclass

from megabiomed.ground.errors import ConfigError, DataError

_PLACEHOLDER = re.compile(r"<(molecule|protein)Here>")
_SYSTEM = (
    "You are working as an excellent assistant in chemistry and molecule discovery. Below a human expert gives the "
    "representation of a molecule or a protein. Answer questions about it. "
)


@dataclass(frozen=True)
class Template:
    """How question and items become a prompt.

    Attributes:
        molecule, protein: text of one item, with its placeholder and, optionally, {smiles}.
        prompt: whole prompt with {items} and {question}; the answer follows, then EOS.
    """

    molecule: str
    protein: str
    prompt: str


TEMPLATES = {
    # PharMolix/OpenBioMed, chat_utils.py and examples/biomedgpt_inference.ipynb
    "biomedgpt": Template(
        "<molecule><moleculeHere></molecule> ",
        "<protein><proteinHere></protein> ",
        _SYSTEM + "### Human: {items}{question} ### Assistant: ",
    ),
    "biomedgpt-smiles": Template(
        "<molecule><representation><moleculeHere></representation><SMILES>{smiles}</SMILES></molecule> ",
        "<protein><proteinHere></protein> ",
        _SYSTEM + "### Human: {items}{question} ### Assistant: ",
    ),
    "plain": Template("<moleculeHere> ", "<proteinHere> ", "{items}{question} "),
}


def find_template(name: str) -> Template:
    """A template by name."""
    if name not in TEMPLATES:
        raise ConfigError("there is no such prompt template", got=name, expected=", ".join(TEMPLATES))
    return TEMPLATES[name]


def render(template: Template, question: str, molecules: list[str], proteins: list[str]) -> tuple[str, list[str]]:
    """Prompt with placeholders, and the modality of each placeholder in order.

    A question that has placeholders itself keeps them; otherwise the items come first, molecules before proteins.

    Raises:
        DataError: placeholders and items do not match.
    """
    items = ""
    if not _PLACEHOLDER.search(question):
        items = "".join(template.molecule.replace("{smiles}", smiles) for smiles in molecules)
        items += template.protein * len(proteins)
    prompt = template.prompt.replace("{items}", items).replace("{question}", question)
    kinds = _PLACEHOLDER.findall(prompt)
    found = kinds.count("molecule"), kinds.count("protein")
    if found != (len(molecules), len(proteins)):
        raise DataError(
            "placeholders and data do not match",
            got=f"{found[0]} molecule and {found[1]} protein placeholders",
            expected=f"{len(molecules)} and {len(proteins)}",
        )
    return prompt, kinds


def pieces(prompt: str) -> list[str]:
    """The texts between the placeholders: one more than there are placeholders."""
    return _PLACEHOLDER.split(prompt)[::2]
