"""Questions made from raw releases: UniProtKB/Swiss-Prot flat files, and PubChem structures with descriptions."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.records import MultimodalQuestion, RecordLayout, opened
from megabiomed.samples.multimodal.records_json import DESCRIBE

# Topics of UniProtKB's CC lines (user manual, section 3.12) and the question that each answers: UniProtQA's four kinds.
_TOPICS = {
    "FUNCTION": "What is the function of this protein?",
    "SUBCELLULAR LOCATION": "What is the sub-cellular location of this protein?",
    "SIMILARITY": "What is the protein family of this protein?",
}
_NAMES = "What are the official names of this protein?"
_EVIDENCE = re.compile(r"\s*\{ECO:[^}]*\}|\s*\((?:PubMed|Ref\.)[^)]*\)")
_SMILES = ("PUBCHEM_SMILES", "PUBCHEM_OPENEYE_ISO_SMILES", "PUBCHEM_ISOMERIC_SMILES", "SMILES", "smiles")


@dataclass
class _Entry:
    accession: str = ""
    name: str = ""
    comments: list[str] = field(default_factory=list)
    sequence: str = ""
    in_sequence: bool = False


def read_swissprot(path: Path) -> Iterator[MultimodalQuestion]:
    """Up to four questions per entry of a .dat or .dat.gz file."""
    with opened(path) as file:
        entry = _Entry()
        for line in file:
            if line.startswith("//"):
                yield from _questions(path, entry)
                entry = _Entry()
            else:
                _add(entry, line.rstrip("\n"))
        if entry.accession:
            raise DataError(f"{path} ends inside entry {entry.accession}", expected="// after each entry")


def _add(entry: _Entry, line: str) -> None:
    code, text = line[:2], line[5:].strip()
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


def _questions(path: Path, entry: _Entry) -> Iterator[MultimodalQuestion]:
    found = [(_NAMES, entry.name)] if entry.name else []
    for comment in entry.comments:
        topic, _, text = comment.partition(":")
        if topic in _TOPICS:
            found.append((_TOPICS[topic], re.sub(r"(\s*\.)+$", ".", _EVIDENCE.sub("", text).strip())))
    for number, (question, answer) in enumerate(found):
        yield MultimodalQuestion(
            f"{path.name}:{entry.accession}.{number}", question, answer, {"protein": [entry.sequence]}
        )


def read_csv(path: Path) -> Iterator[MultimodalQuestion]:
    """One description per row of a table with SMILES and description columns."""
    with opened(path) as file:
        rows = csv.DictReader(file)
        names = {(name or "").lower(): name for name in rows.fieldnames or []}
        if not {"smiles", "description"} <= set(names):
            raise DataError(f"{path} is not a table of molecules", got=rows.fieldnames, expected="smiles, description")
        for number, row in enumerate(rows):
            ident = row.get(names.get("cid", ""), "") or str(number)
            items = {"molecule": [row[names["smiles"]] or ""]}
            yield MultimodalQuestion(f"{path.name}:{ident}", DESCRIBE, row[names["description"]] or "", items)


def read_sdf(path: Path) -> Iterator[MultimodalQuestion]:
    """PubChem's structures (.sdf, .sdf.gz) with their texts in descriptions.csv (CID, description) in the same folder."""
    texts = path.with_name("descriptions.csv")
    if not texts.is_file():
        raise DataError(f"{path} holds structures without text", expected=f"{texts} with columns CID, description")
    with texts.open(newline="") as file:
        wanted = [(row["CID"], row["description"]) for row in csv.DictReader(file)]
    smiles = dict(_structures(path))
    for number, (cid, description) in enumerate(wanted):
        if cid in smiles:
            yield MultimodalQuestion(f"{path.name}:{cid}.{number}", DESCRIBE, description, {"molecule": [smiles[cid]]})


def _structures(path: Path) -> Iterator[tuple[str, str]]:
    """(CID, SMILES) of each block, from its data fields."""
    fields: dict[str, str] = {}
    key = ""
    with opened(path) as file:
        for line in file:
            text = line.strip()
            if text == "$$$$":
                smiles = next((fields[name] for name in _SMILES if name in fields), "")
                if "PUBCHEM_COMPOUND_CID" in fields and smiles:
                    yield fields["PUBCHEM_COMPOUND_CID"], smiles
                fields, key = {}, ""
            elif text.startswith("> "):
                key = text[text.find("<") + 1 : text.rfind(">")]
            elif key and text:
                fields.setdefault(key, text)


SWISSPROT = RecordLayout(read_swissprot, (".dat",))
CSV = RecordLayout(read_csv, (".csv",))
SDF = RecordLayout(read_sdf, (".sdf",))
