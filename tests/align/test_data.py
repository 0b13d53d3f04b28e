"""Published layouts, prompts, windows and splits; every bad record is counted with its id."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from megabiomed.config import DataConfig
from megabiomed.config.align import AlignConfig
from megabiomed.data.order import OrderSource, SampleOrder
from megabiomed.data.packing import IGNORE_INDEX
from megabiomed.data.quarantine import Quarantine
from megabiomed.data.windows import window_count
from megabiomed.encoders.modality import modality_of
from megabiomed.ground.errors import DataError
from megabiomed.samples.multimodal.building import BuildSettings, build_split
from megabiomed.samples.multimodal.loader import AlignLoader, AlignValidation
from megabiomed.samples.multimodal.prompts import TEMPLATES, render
from megabiomed.samples.multimodal.records import MultimodalQuestion, read_records
from megabiomed.samples.multimodal.splits import leakage, split_records
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.tokenizer.files import open_tokenizer

MODALITIES = [modality_of(name) for name in ("molecule", "protein")]


def align_config(questions: Path) -> AlignConfig:
    return AlignConfig.model_validate(
        {"train": [{"path": questions / "train"}], "stages": [{"name": "s", "steps": 1}],
         "protein_adaptor": {"kind": "resampler", "num_queries": 4}}
    )  # fmt: skip


def test_the_published_layouts_are_read(tmp_path: Path) -> None:
    (tmp_path / "chebi.txt").write_text('CID\tSMILES\tdescription\n7\tCCO\tThe molecule is "ethanol".\n')
    (tmp_path / "sequences.json").write_text(json.dumps({"P1": "MK"}))
    old = [{"source": "x", "protein_accession": ["P1"], "question": "q", "answer": "a"}]
    (tmp_path / "pqa.json").write_text(json.dumps(old))
    (tmp_path / "v2.json").write_text(
        json.dumps([{"smiles": [""], "sequence": ["MKL"], "question": "q", "answer": "a"}])
    )
    (tmp_path / "chembl.json").write_text(json.dumps({"CC": [["q", "a"], ["r", "b"]]}))
    (molecule,) = read_records(tmp_path / "chebi.txt")
    assert (molecule.of("molecule"), molecule.answer, molecule.ident) == (
        ["CCO"],
        'The molecule is "ethanol".',
        "chebi.txt:7",
    )
    assert next(read_records(tmp_path / "pqa.json")).of("protein") == ["MK"]
    assert next(read_records(tmp_path / "v2.json")) == MultimodalQuestion("v2.json:0", "q", "a", {"protein": ["MKL"]})
    assert [r.answer for r in read_records(tmp_path / "chembl.json")] == ["a", "b"]
    with pytest.raises(DataError, match="does not exist"):
        read_records(tmp_path / "none.json")


def test_the_prompt_is_biomedgpts() -> None:
    asked = MultimodalQuestion("a", "What is the function of this protein?", "", {"protein": ["MK"]})
    rendered = render(TEMPLATES["biomedgpt"], asked, MODALITIES)
    prompt = "<proteinHere>".join(rendered.pieces)
    assert prompt.endswith(
        "### Human: <protein><proteinHere></protein> What is the function of this protein? ### Assistant: "
    )
    assert prompt.startswith("You are working as an excellent assistant in chemistry and molecule discovery.")
    assert rendered.items == [("protein", "MK")]
    assert len(rendered.pieces) == 2
    for molecules, question in [([], "<moleculeHere>?"), (["C", "C"], "<moleculeHere>?")]:
        with pytest.raises(DataError, match="placeholders and data"):
            render(TEMPLATES["plain"], MultimodalQuestion("a", question, "", {"molecule": molecules}), MODALITIES)


def test_bad_records_are_counted_and_listed(questions: Path, tmp_path: Path) -> None:
    bad = {
        "a": MultimodalQuestion("a", "q", "x", {"molecule": ["C1CC"]}),
        "b": MultimodalQuestion("b", "q", "x", {"protein": ["M1K"]}),
        "c": MultimodalQuestion("c", "q", " ", {"molecule": ["C"]}),
        "d": MultimodalQuestion("d", "<proteinHere>?", "x", {"molecule": ["C"]}),
        "e": MultimodalQuestion("e", "q", "x", {"molecule": ["C" * 300]}),
        "f": MultimodalQuestion("f", "q", "x", {"protein": [""]}),
    }  # fmt: skip
    good = [
        MultimodalQuestion("g", "q", "two molecules", {"molecule": ["C", "[Na+]"]}),
        MultimodalQuestion("h", "q", "x", {"protein": ["mkJ*x" + "A" * 2000]}),
    ]
    tokenizer = open_tokenizer(questions / "train/tokenizer.model")
    manifest = build_split([*bad.values(), *good], tmp_path / "s", tokenizer, BuildSettings("plain"))
    assert manifest["left_out"] == {"molecule invalid": 1, "protein invalid": 1, "no answer": 1, "placeholder": 1,
                                   "molecule too_large": 1, "protein empty": 1}  # fmt: skip
    store = QaStore(tmp_path / "s")
    assert [reject.ident for reject in store.rejects()] == list(bad)
    assert [len(store.record_items(record)) for record in range(2)] == [2, 1]
    assert store.record_items(1)[0].rows == 1024
    with pytest.raises(DataError, match="already exists"):
        build_split([], tmp_path / "s", tokenizer, BuildSettings())


def test_loss_falls_on_answer_and_eos_only(questions: Path) -> None:
    data = DataConfig(seq_length=96, micro_batch_size=1, global_batch_size=2)
    loader = AlignLoader([QaStore(questions / "train")], align_config(questions), data, seed=1)
    windows, tokenizer = loader.windows[0], open_tokenizer(questions / "train/tokenizer.model")
    for window in range(len(windows)):
        placed = windows.place(window)
        labels = placed.window.labels[placed.window.labels != IGNORE_INDEX]
        answers = [windows.store.text(record)[2] for record in windows.records(window)]
        expected = [i for answer in answers for i in [*tokenizer.encode(answer), tokenizer.eos_id]]
        assert labels.tolist() == expected
        parts = loader.documents[0].parts(window)
        assert [part.document for part in parts] == windows.records(window)
        hidden = Quarantine(["x"], {(0, window): [(parts[-1].place, parts[-1].place + parts[-1].size)]})
        batch = hidden.masked(loader.read([[0, 0, window]]), [[0, 0, window]], 96)
        last = [*tokenizer.encode(answers[-1]), tokenizer.eos_id]
        assert batch.labels[batch.labels != IGNORE_INDEX].tolist() == expected[: -len(last)]
        assert batch.num_loss_tokens == len(expected) - len(last)
        covered = np.concatenate([np.arange(item.at, item.at + item.places) for item in placed.items])
        assert len(set(covered.tolist())) == len(covered)
        assert (placed.window.labels[covered[:-1]] == IGNORE_INDEX).all()


def test_every_topology_sees_the_same_global_batch(questions: Path) -> None:
    data, stores = DataConfig(seq_length=96, global_batch_size=4), [QaStore(questions / "train")]
    align = align_config(questions)
    alone = AlignLoader(stores, align, data, seed=1).batch_at(8)
    halves = [AlignLoader(stores, align, data, 1, 0.0, rank, 2).batch_at(8) for rank in range(2)]
    assert all((half.sample_ids == alone.sample_ids).all() for half in halves)
    together = [micro.tokens.tolist() for half in halves for micro in half.micro_batches]
    assert together == [micro.tokens.tolist() for micro in alone.micro_batches]
    assert [i.row for i in halves[0].items] == [i.row for i in alone.items]
    assert {i.consumer for i in halves[1].items} == {0, 1}


def test_the_identity_is_that_of_older_checkpoints(questions: Path, papers: Path) -> None:
    """A key more or less, or another order of samples, would make every older checkpoint diverge."""
    align = align_config(questions).model_copy(update={"replay": papers})
    store = QaStore(questions / "train")
    data = DataConfig(seq_length=96, global_batch_size=4)
    loader = AlignLoader([store], align, data, seed=1, text_share=0.5)
    assert loader.text is not None
    prints = [(store.fingerprint, "1/2"), (loader.text.fingerprint, "1/2")]
    sizes = [len(loader.windows[0]), window_count(loader.text, 96)]
    expected = {
        "order_version": 1, "seed": 1, "seq_length": 96, "adaptors": [-1, 4],
        "sources": [{"fingerprint": p, "share": s, "windows": n} for (p, s), n in zip(prints, sizes)],
    }  # fmt: skip
    assert json.dumps(loader.identity) == json.dumps(expected)
    sources = [OrderSource(sizes[0], 1.0), OrderSource(sizes[1], 1.0)]
    assert np.array_equal(loader.batch_at(40).sample_ids, SampleOrder(sources, 1).sample_ids(40, 4))


def test_an_older_dataset_is_read(questions: Path, tmp_path: Path) -> None:
    """Stores of format 1 number molecules 0 and proteins 1, and say so nowhere."""
    copytree(questions / "train", tmp_path / "old")
    now = QaStore(questions / "train")
    held = now.manifest
    older = {
        "format": 1, "featuriser": 1, "settings": {"template": "plain", "max_atoms": 256, "max_residues": 1022},
        "tokenizer": held["tokenizer"], "records": held["records"], "skipped": {"molecule invalid": 2},
    }  # fmt: skip
    (tmp_path / "old/manifest.json").write_text(json.dumps(older))
    old = QaStore(tmp_path / "old")
    assert (old.left_out, old.template, list(old.modalities)) == (
        {"molecule invalid": 2},
        "plain",
        ["molecule", "protein"],
    )
    assert [old.record_items(n) for n in range(len(old))] == [now.record_items(n) for n in range(len(now))]
    assert {item.modality for n in range(len(old)) for item in old.record_items(n)} == {"molecule", "protein"}
    (tmp_path / "old/manifest.json").write_text(json.dumps({**older, "featuriser": 0}))
    with pytest.raises(DataError, match="another version of molecule features: got 0, expected 1"):
        QaStore(tmp_path / "old")


def test_a_shifted_validation_has_other_items_of_the_same_size(questions: Path) -> None:
    data, store = DataConfig(seq_length=96, global_batch_size=1), QaStore(questions / "validation")
    right, wrong = (AlignValidation(store, align_config(questions), data, 8, 1, shift=n).batch() for n in (0, 1))
    pairs = [(right.features(item), wrong.features(item)) for item in right.items]
    assert all(a.rows == b.rows for a, b in pairs)
    assert any(a != b if not hasattr(a, "atoms") else a.atoms.tolist() != b.atoms.tolist() for a, b in pairs)


def test_cluster_splits_keep_relatives_together() -> None:
    aromatic = [MultimodalQuestion(str(n), "q", "a", {"molecule": ["c1ccccc1" + "C" * n]}) for n in range(1, 30)]
    family = [
        MultimodalQuestion(f"p{n}", "q", "a", {"protein": ["MKTAYIAKQRQISFVKSHFSRQ" * 3 + "G" * n]}) for n in range(30)
    ]
    others = [MultimodalQuestion(f"o{n}", "q", "a", {"molecule": ["N" * n + "O"]}) for n in range(1, 60)]
    split = split_records([*aromatic, *family, *others], "cluster", 0, MODALITIES)
    assert leakage(split, MODALITIES)["same_cluster"] == 0.0
    for group in (aromatic, family):
        assert len({name for name, part in split.items() for record in group if record in part}) == 1
