"""The generated corpus: valid S2ORC, the same for the same seed, every paper different, every number computed."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter

import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, Lipinski, rdMolDescriptors

from megabiomed.corpus import facts_biology as biology
from megabiomed.corpus.clean import CleanRules, clean
from megabiomed.corpus.facts_molecules import MOLECULES, peptide_weight, properties
from megabiomed.corpus.generate import generate_records, write_records
from megabiomed.corpus.generate_sentences import article, compared, described, summarised
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.records import Rejects


def test_the_generated_file_reads_back_without_rejects(tmp_path):
    characters = write_records(tmp_path / "a.jsonl.gz", papers=600)
    rejects = Rejects()
    papers = list(read_papers(tmp_path / "a.jsonl.gz", rejects=rejects))
    assert not rejects.counts
    assert (len(papers), sum(len(paper.text) for paper in papers)) == (600, characters)
    texts = [clean(paper, CleanRules(), Counter()) for paper in papers]
    assert len(set(texts)) == 600
    assert 1.0e6 < sum(len(text or "") for text in texts) < 1.6e6


def test_the_bytes_depend_on_papers_and_seed_alone(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_records(tmp_path / f"{name}.jsonl.gz", papers=20, seed=seed)
    a, b, c = ((tmp_path / f"{name}.jsonl.gz").read_bytes() for name in "abc")
    assert a == b != c
    assert list(generate_records(5, seed=3)) == list(generate_records(20, seed=3))[:5]
    assert [json.loads(line) for line in gzip.decompress(a).splitlines()] == list(generate_records(20, seed=3))


def test_records_have_the_keys_and_types_of_the_datasets_api():
    (record,) = generate_records(1)
    assert list(record) == ["corpusid", "externalids", "content", "updated"]
    assert set(record["externalids"]) == {"arxiv", "mag", "acl", "pubmed", "pubmedcentral", "dblp", "doi"}
    assert list(record["content"]) == ["source", "text", "annotations"]
    annotations = record["content"]["annotations"]
    assert len(annotations) == 23
    assert all(value is None or isinstance(value, str) for value in annotations.values())
    marked = {
        kind: [record["content"]["text"][span["start"] : span["end"]] for span in json.loads(value)]
        for kind, value in annotations.items()
        if value
    }
    assert all(re.fullmatch(r"\[[123]\]", piece) for piece in marked["bibref"])
    assert marked["author"][0] == "Author One"
    assert marked["sectionheader"] == ["Introduction", "Methods", "Results", "Discussion", "References"]
    assert (marked["tableref"], marked["figureref"]) == (["Table 1"], ["Figure 1"])


def test_every_structure_has_the_formula_that_was_written_down_for_it():
    assert len(MOLECULES) > 200
    wrong = [m.name for m in MOLECULES if properties(m.smiles).formula != m.formula]
    assert wrong == []
    assert len({m.name for m in MOLECULES}) == len(MOLECULES)
    assert all(m.kind and m.statement for m in MOLECULES)


@pytest.mark.parametrize("molecule", MOLECULES[::25], ids=lambda m: m.name)
def test_the_numbers_in_the_text_are_those_of_rdkit(molecule):
    mol = Chem.MolFromSmiles(molecule.smiles)
    text = " ".join(sentence for seed in range(40) for sentence in described(molecule, random.Random(seed)))
    assert f"weight is {Descriptors.MolWt(mol):.2f} g/mol" in text
    assert f"logP of {molecule.name} is {Crippen.MolLogP(mol):.2f}." in text
    assert f"surface area is {rdMolDescriptors.CalcTPSA(mol):.1f} square" in text
    assert f"has {Lipinski.NumHDonors(mol)} hydrogen bond donor" in text
    assert f"and {Lipinski.NumHAcceptors(mol)} hydrogen bond acceptor" in text
    assert f"and {mol.GetNumHeavyAtoms()} heavy atom" in text
    assert f"contains {mol.GetRingInfo().NumRings()} ring" in text
    assert f"has {rdMolDescriptors.CalcNumRotatableBonds(mol)} rotatable bond" in text


def test_comparisons_agree_with_the_numbers_they_print():
    rng = random.Random(0)
    for _ in range(300):
        sentence = compared(*rng.sample(MOLECULES, 2), rng)
        numbers = [float(number) for number in re.findall(r"\((-?\d+(?:\.\d+)?)\)", sentence)]
        if "the same" in sentence:
            assert len(numbers) == 1
        else:
            assert (numbers[0] > numbers[1]) == ("is higher than" in sentence)
            assert numbers[0] != numbers[1]


def test_isomers_are_never_called_the_heaviest_or_the_lightest():
    isomers = [m for m in MOLECULES if m.name in ("D-glucose", "D-fructose")]
    sentences = {summarised(isomers, random.Random(seed)) for seed in range(40)}
    assert len(isomers) == 2
    assert not any("heaviest" in sentence or "lightest" in sentence for sentence in sentences)


def test_the_genetic_code_has_61_sense_codons_each_for_one_amino_acid():
    codons = [codon for a in biology.AMINO_ACIDS for codon in a.codons]
    assert len(codons) == len(set(codons)) == 61
    assert {"UAA", "UAG", "UGA"}.isdisjoint(codons)
    assert len(biology.AMINO_ACIDS) == 20


def test_residue_weights_add_up_to_the_weight_of_a_peptide():
    residues = sum(peptide_weight(letter) - 18.015 for letter in "MKWV")
    assert residues + 18.015 == pytest.approx(peptide_weight("MKWV"), abs=0.01)


@pytest.mark.parametrize(
    ("noun", "expected"),
    [("opioid", "an opioid"), ("RNA polymerase inhibitor", "an RNA polymerase inhibitor"), ("statin", "a statin")],
)
def test_articles_follow_the_sound(noun, expected):
    assert article(noun) == expected
