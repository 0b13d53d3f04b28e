"""Questions from raw Swiss-Prot and PubChem releases."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.records import read_records
from megabiomed.samples.rejects import Reject

ENTRY = """ID   TEST_HUMAN              Reviewed;          12 AA.
AC   P00001; Q00001;
DE   RecName: Full=Test protein {ECO:0000303|PubMed:1};
DE            Short=TP;
CC   -!- FUNCTION: Binds water (PubMed:123). Also
CC       binds salt. {ECO:0000269|PubMed:123}.
CC   -!- SUBCELLULAR LOCATION: Cytoplasm {ECO:0000250}.
CC   -!- INTERACTION: P1; P2.
CC   -----------------------------------------------------------------------
CC   Copyrighted by the UniProt Consortium
CC   -----------------------------------------------------------------------
SQ   SEQUENCE   12 AA;  1 MW;  1 CRC64;
     MKTAYIAKQR QI
//
"""


def test_a_swissprot_entry_gives_its_questions(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "sprot.dat.gz", "wt") as file:
        file.write(ENTRY)
    records = list(read_records(tmp_path / "sprot.dat.gz"))
    assert {r.answer for r in records} == {"Test protein", "Binds water. Also binds salt.", "Cytoplasm."}
    assert {r.of("protein")[0] for r in records} == {"MKTAYIAKQRQI"}
    assert records[0].ident == "sprot.dat.gz:P00001.0"
    (tmp_path / "cut.dat").write_text(ENTRY.replace("//\n", ""))
    with pytest.raises(DataError, match="P00001 cannot be used: got cut off"):
        list(read_records(tmp_path / "cut.dat"))


def test_pubchem_structures_meet_their_descriptions(tmp_path: Path) -> None:
    block = "1\n  -OEChem-\n\nM  END\n> <PUBCHEM_COMPOUND_CID>\n{}\n\n> <PUBCHEM_OPENEYE_ISO_SMILES>\n{}\n\n$$$$\n"
    (tmp_path / "c.sdf").write_text(block.format(7, "CCO") + block.format(8, "CC"))
    with pytest.raises(DataError, match="without text"):
        list(read_records(tmp_path / "c.sdf"))
    (tmp_path / "descriptions.csv").write_text('CID,description\n7,"Ethanol, a solvent."\n9,unknown\n')
    rejects: list[Reject] = []
    (record,) = read_records(tmp_path / "c.sdf", rejects=rejects)
    assert [(reject.reason, reject.detail) for reject in rejects] == [("no structure", "CID 9"), ("no description", "")]
    assert (record.of("molecule"), record.answer) == (["CCO"], "Ethanol, a solvent.")
    (tmp_path / "m.csv").write_text("cid,SMILES,Description\n3,CC,Ethane.\n")
    (record,) = read_records(tmp_path / "m.csv")
    assert (record.ident, record.of("molecule"), record.answer) == ("m.csv:3", ["CC"], "Ethane.")
