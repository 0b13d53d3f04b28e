"""Questions made from raw releases: UniProtKB/Swiss-Prot flat files, and PubChem structures with descriptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megabiomed.ground.errors import DataError
from megabiomed.samples.documents import read_table, text_lines
from megabiomed.samples.multimodal.records import MultimodalQuestion, RecordLayout
from megabiomed.samples.multimodal.records_json import described
from megabiomed.samples.rejects import Reject, Unusable

# Topics of UniProtKB's CC lines (user manual, section 3.12) and the question that each answers: UniProtQA's four kinds.
_TOPICS = {
    "FUNCTION": "What is the function of this protein?",
    "SUBCELLULAR LOCATION": "What is the sub-cellular location of this protein?",
    "SIMILARITY": "What is the protein family of this protein?",
}
_NAMES = "What are the official names of this protein?"
# Who found it: an answer with such sources would teach the model to invent them.
_EVIDENCE = re.compile(r"\s*\{ECO:[^}]*\}|\s*\((?:PubMed|Ref\.)[^)]*\)")
# PubChem renamed the field several times.
_SMILES = ("PUBCHEM_SMILES", "PUBCHEM_OPENEYE_ISO_SMILES", "PUBCHEM_ISOMERIC_SMILES", "SMILES", "smiles")


@dataclass
class _Entry:
    accession: str = ""
    name: str = ""
    comments: list[str] = field(default_factory=list)
    sequence: str = ""
    in_sequence: bool = False


def read_swissprot(path: Path) -> Iterator[MultimodalQuestion | Reject]:
    """Up to four questions per entry of a .dat or .dat.gz file; an entry without any is a reject."""
    entry = _Entry()
    for line in text_lines(path):
        if line.startswith("//"):
            yield from _questions(path, entry)
            entry = _Entry()
        else:
            _add(entry, line.rstrip("\n"))
    if entry.accession:
        yield Reject("", f"{path.name}:{entry.accession}", "cut off", "the file ends inside this entry, before //")


def _add(entry: _Entry, line: str) -> None:
    # A code of two letters, three spaces, then text (UniProtKB user manual).
    code, text = line[:2], line[5:].strip()
    # The first accession is the primary one, the others are of entries that were merged or split.
    if code == "AC" and not entry.accession:
        entry.accession = text.split(";")[0]
    elif code == "DE" and text.startswith("RecName: Full="):
        entry.name = _EVIDENCE.sub("", text.removeprefix("RecName: Full=")).rstrip(";")
    elif code == "CC" and text.startswith("-!-"):
        entry.comments.append(text.removeprefix("-!-").strip())
    elif code == "CC" and entry.comments and not text.startswith("---"):
        entry.comments[-1] += " " + text
    elif code == "CC":
        entry.comments.append("")  # the licence that follows belongs to no topic
    elif code == "SQ":
        entry.in_sequence = True
    elif code == "  " and entry.in_sequence:
        entry.sequence += text.replace(" ", "")


def _questions(path: Path, entry: _Entry) -> Iterator[MultimodalQuestion | Reject]:
    found = [(_NAMES, entry.name)] if entry.name else []
    for comment in entry.comments:
        topic, _, text = comment.partition(":")
        if topic in _TOPICS:
            # Without its evidence a sentence may end in several points.
            found.append((_TOPICS[topic], re.sub(r"(\s*\.)+$", ".", _EVIDENCE.sub("", text).strip())))
    ident = f"{path.name}:{entry.accession}"
    if not found:
        yield Reject("", ident, "no known topic", "neither names nor function, location or family")
    for number, (question, answer) in enumerate(found):
        yield MultimodalQuestion(f"{ident}.{number}", question, answer, {"protein": [entry.sequence]})


def read_csv(path: Path) -> Iterator[MultimodalQuestion | Reject]:
    """One description per row of a table with SMILES and description columns."""
    for line, row in read_table(path, ("smiles", "description")):
        yield described(path, line, row)


def read_sdf(path: Path) -> Iterator[MultimodalQuestion | Reject]:
    """PubChem's structures (.sdf, .sdf.gz) with their texts in descriptions.csv (CID, description) in the same folder.

    Structures and texts without the other are rejects.
    """
    texts = path.with_name("descriptions.csv")
    if not texts.is_file():
        raise DataError(f"{path} holds structures without text", expected=f"{texts} with columns CID, description")
    smiles: dict[str, str] = {}
    for structure in _structures(path):
        if isinstance(structure, Reject):
            yield structure
        else:
            # Of structures with one CID the first counts.
            smiles.setdefault(*structure)
    missing = dict.fromkeys(smiles)
    for line, row in read_table(texts, ("cid", "description")):
        if not isinstance(row, Unusable):
            cid = row["cid"].strip()
            missing.pop(cid, None)
            row = {**row, "smiles": smiles[cid]} if cid in smiles else Unusable("no structure", f"CID {cid}")
        yield described(path, line, row, several=True)
    for cid in missing:
        yield Reject("", f"{path.name}:{cid}", "no description")


def _structures(path: Path) -> Iterator[tuple[str, str] | Reject]:
    """(CID, SMILES) of each block, from its data fields."""
    fields: dict[str, list[str]] = {}
    key = ""
    number = 0
    for line in text_lines(path):
        text = line.strip()
        if text == "$$$$":
            yield _structure(f"{path.name}:structure {number}", fields)
            fields = {}
            key = ""
            number += 1
        elif text.startswith("> "):
            key = text[text.find("<") + 1 : text.rfind(">")]
        elif key and text:
            fields.setdefault(key, []).append(text)
    if fields:
        yield Reject("", f"{path.name}:structure {number}", "cut off", "the file ends before $$$$")


def _structure(ident: str, fields: dict[str, list[str]]) -> tuple[str, str] | Reject:
    smiles = next((fields[name] for name in _SMILES if name in fields), [])
    cid = fields.get("PUBCHEM_COMPOUND_CID", [])
    if len(cid) != 1 or len(smiles) != 1:
        return Reject("", ident, "no CID or SMILES", f"lines of CID: {len(cid)}, lines of SMILES: {len(smiles)}")
    return cid[0], smiles[0]


SWISSPROT = RecordLayout(read_swissprot, (".dat",))
CSV = RecordLayout(read_csv, (".csv",))
SDF = RecordLayout(read_sdf, (".sdf",))
