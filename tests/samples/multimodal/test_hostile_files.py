"""One odd record costs one record: it is left out and counted, and no missing value is ever spelt as a word."""

from __future__ import annotations

import bz2
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megabiomed.cli import app
from megabiomed.ground.errors import DataError, UserError
from megabiomed.samples.multimodal.store import QaStore
from megabiomed.samples.rejects import read_rejects

Build = Callable[..., QaStore]
SLOW = """
import csv
from collections import namedtuple
import numpy as np
from megabiomed.config.base import Section
from megabiomed.encoders.modality import Modality
from megabiomed.samples.multimodal.records import MultimodalQuestion, RecordLayout

class String(namedtuple("String", "letters")):
    rows = property(lambda self: len(self.letters))

class Strings(Modality[String, Section]):
    name, placeholder, table, columns, limits = "string", "<stringHere>", "strings", {"letters": "uint8"}, Section
    quick_characters = 4
    def featurise(self, text, limits):
        while len(text) > 5:
            pass
        return String(np.frombuffer(text.encode(), np.uint8))
    def to_row(self, features):
        return {"letters": features.letters}
    def from_row(self, row):
        return String(row["letters"])
    def collate(self, items): ...
    def resized(self, features, rows): ...

def read(path):
    with path.open() as file:
        for n, row in enumerate(csv.DictReader(file)):
            yield MultimodalQuestion(str(n), "q", row["answer"], {"string": [row["text"]]})

STRINGS, TABLE = Strings(), RecordLayout(read)
"""
GOOD = {"smiles": "CCO", "question": "q", "answer": "an alcohol"}
NAN = float("nan")


def reasons(store: QaStore) -> dict[str, int]:
    """Of reading and of building together."""
    return {**store.manifest["read"]["left_out"], **store.left_out}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({**GOOD, "answer": None}, "no answer"),
        ({**GOOD, "answer": NAN}, "no answer"),
        ({**GOOD, "answer": " "}, "no answer"),
        ({**GOOD, "answer": ["yes", "no"]}, "answer is not text"),
        ({**GOOD, "answer": True}, "answer is not text"),
        ({**GOOD, "question": NAN}, "no question"),
        ({**GOOD, "question": {"a": 1}}, "question is not text"),
        ({**GOOD, "smiles": NAN}, "no molecule or protein"),
        ({"sequence": NAN, "question": "q", "answer": "a"}, "no molecule or protein"),
        ({"sequence": ["MK", None], "question": "q", "answer": "a"}, "no protein"),
        ({"protein_accession": ["P9"], "question": "q", "answer": "a"}, "unknown protein accession"),
        ({"protein_accession": ["P2"], "question": "q", "answer": "a"}, "no protein sequence"),
        ({**GOOD, "answer": "half \ud800 a pair"}, "no valid text"),
        ({**GOOD, "smiles": "C\udc00"}, "no valid text"),
        (["no", "object"], "no question"),
        (None, "no question"),
    ],
)
def test_a_record_that_cannot_be_read_is_counted_and_the_others_are_kept(
    build: Build, tmp_path: Path, odd: Any, reason: str
) -> None:
    (tmp_path / "sequences.json").write_text(json.dumps({"P1": "MK", "P2": NAN}))
    (tmp_path / "q.json").write_text(json.dumps([odd, GOOD, {**GOOD, "answer": 7}]))
    store = build(tmp_path / "q.json")
    assert [store.text(n)[2] for n in range(len(store))] == ["an alcohol", "7"]
    assert reasons(store) == {reason: 1}
    listed = read_rejects(store.path) + read_rejects(store.path.parent)
    assert [(reject.ident, reject.reason) for reject in listed] == [("q.json:0", reason)]


@pytest.mark.parametrize(
    ("name", "content", "kept", "left_out"),
    [
        ("wrapped.json", json.dumps({"data": [GOOD, GOOD]}), 2, {}),
        ("by_id.json", json.dumps({"a": GOOD, "b": GOOD}), 2, {}),
        ("alone.json", json.dumps(GOOD, indent=1), 1, {}),
        ("pairs.json", '{"CC": [["q", "a"], ["q"], "q"], "CC": [["r", "b"]], "CO": 3}', 2,
         {"no pair of question and answer": 2, "no question": 1}),
        ("bom.json", "\ufeff" + json.dumps([GOOD]), 1, {}),
        ("bom.jsonl", "\ufeff" + json.dumps(GOOD) + "\r\n" + json.dumps(GOOD), 2, {}),
        ("separator.jsonl", json.dumps({**GOOD, "answer": "two\u2028lines"}, ensure_ascii=False) + "\n\n", 1, {}),
        ("bad_line.jsonl", json.dumps(GOOD) + "\n{bad\n" + json.dumps(GOOD), 2, {"no JSON": 1}),
        ("lines.json", json.dumps(GOOD) + "\n" + json.dumps(GOOD), 2, {}),
        ("latin1.jsonl", json.dumps(GOOD).encode() + b'\n{"smiles": "CC", "question": "q", "answer": "\xe9"}', 1,
         {"no valid text": 1}),
        ("latin1.json", b'[{"smiles": "CC", "question": "q", "answer": "\xe9"}, ' + json.dumps(GOOD).encode() + b"]", 1,
         {"no valid text": 1}),
        ("bom.txt", "\ufeffCID\tSMILES\tdescription\n1\tCCO\tan alcohol\n", 1, {}),
        ("short.txt", "CID\tSMILES\tdescription\n1\tCCO\n2\tCC\tok\n3\tCC\tcut\tat a tab\n\n4\t\tx\n5\tC\t \n", 1,
         {"other number of columns than the header": 2, "no molecule": 1, "no answer": 1}),
        ("quotes.csv", 'smiles,description\nCC,"two\nlines"\nCC,"a"b\nCO,ok\nCC,an open, comma\nCC,"no end\nCO,lost', 2,
         {"damaged row": 2, "other number of columns than the header": 1}),
        ("cut.dat", "AC   P1;\nDE   RecName: Full=A;\nSQ   S\n     MK\n//\nAC   P2;\n//\nAC   P3;\n", 1,
         {"no known topic": 1, "cut off": 1}),
    ],
)  # fmt: skip
def test_files_as_they_are_found_are_read_and_every_record_is_accounted_for(
    build: Build, tmp_path: Path, name: str, content: str | bytes, kept: int, left_out: dict[str, int]
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    store = build(tmp_path / name)
    assert (len(store), reasons(store)) == (kept, left_out)


def test_structures_and_descriptions_without_the_other_are_counted(build: Build, tmp_path: Path) -> None:
    block = "1\n\nM  END\n> <PUBCHEM_COMPOUND_CID>\n{}\n\n> <PUBCHEM_SMILES>\n{}\n\n$$$$\n"
    blocks = [block.format(7, "CCO"), block.format(8, "CC"), block.format(9, "CC\nCC"), block.format(10, "C")[:-5]]
    (tmp_path / "c.sdf").write_text("".join(blocks))
    (tmp_path / "descriptions.csv").write_text("\ufeffCID,description\n7,an alcohol\n7,again\n5,unknown\n")
    store = build(tmp_path / "c.sdf")
    assert [store.text(n)[0] for n in range(len(store))] == ["c.sdf:7.2", "c.sdf:7.3"]
    assert reasons(store) == {"no CID or SMILES": 1, "cut off": 1, "no structure": 1, "no description": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[{}, {", "neither a JSON document nor JSON lines"),
        ("b.json", b"\xff\xfe[\x00", "got UTF-16 text"),
        ("c.json", bz2.compress(b"[1, 2]")[:-9], "is truncated bzip2 data"),
        ("d.json", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer"),
        ("e.json.gz", b"\x1f\x8b\x08\x00", "is truncated gzip data"),
        ("f.json", b"", "neither|no question"),
        ("g.txt", b"a\tb\n", "other columns"),
        ("h.json", b"[1, 2]", "left out: 2 no question"),
    ],
)
def test_a_file_without_any_record_is_one_message(
    build: Build, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        build(tmp_path / name)


def test_long_answers_are_cut_without_an_end_or_left_out_and_counted(build: Build, tmp_path: Path) -> None:
    (tmp_path / "q.json").write_text(json.dumps([GOOD, {**GOOD, "answer": "water " * 50}]))
    whole = build(tmp_path / "q.json")
    assert whole.manifest["changed"] == {}
    lengths = (whole.id_ends[1:] - whole.id_ends[:-1] - whole.answer_start - 1).tolist()
    limit = lengths[1] - 3
    cut = build(tmp_path / "q.json", "--max-answer-tokens", str(limit))
    assert cut.manifest["changed"] == {"answers_cut": 1, "answer_tokens_cut": 3}
    first = cut.ids[: cut.id_ends[1]].tolist()
    second = cut.ids[cut.id_ends[1] :].tolist()
    end = whole.ids[-1]
    assert (first[-1] == end, second[-1] == end) == (True, False)
    assert len(second) - cut.answer_start[1] == limit
    skipped = build(tmp_path / "q.json", "--max-answer-tokens", str(limit), "--long-answers", "skip")
    assert (len(skipped), skipped.left_out) == (1, {"answer too long": 1})


def test_limits_come_before_work_in_every_split(tokenizer: Path, tmp_path: Path) -> None:
    """rdkit would look minutes for the scaffold of a chain of 9,420 atoms."""
    polymer = {**GOOD, "smiles": "C" * 9420}
    dendrimer = {**GOOD, "smiles": "N" + "C(Cc1ccccc1)C(=O)N" * 200}
    (tmp_path / "q.json").write_text(json.dumps([GOOD, polymer, {**GOOD, "smiles": "CCN"}, dendrimer]))
    for split, atoms, kept in (("cluster", 256, 2), ("random", 256, 2), ("cluster", 10_000, 4)):
        output = tmp_path / f"{split}_{atoms}"
        words = ["dataset", "build", str(tmp_path / "q.json"), "--output", str(output), "--tokenizer", str(tokenizer)]
        app([*words, "--split", split, "--max-atoms", str(atoms)], standalone_mode=False)
        stores = [QaStore(output / name) for name in ("train", "validation", "test")]
        assert sum(map(len, stores)) == kept
        assert sum(store.left_out.get("molecule too_large", 0) for store in stores) == 4 - kept


def test_an_item_that_takes_too_long_is_left_out_and_counted(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_strings.py").write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "q.csv").write_text("text,answer\nab,yes\nabcdef,no\nabcde,yes\n")
    own = ["--modality", "slow_strings:STRINGS", "--layout", "slow_strings:TABLE", "--seconds", "0.5"]
    store = build(tmp_path / "q.csv", *own)
    assert (len(store), store.left_out) == (2, {"string too slow": 1})
    (reject,) = store.rejects()
    assert (reject.ident, reject.detail) == ("1", "'abcdef': more than 0.5 s")


def _mutated(content: bytes, rng: random.Random) -> bytes:
    """One to three places changed: a byte, a piece dropped or doubled, a hostile piece put in."""
    pieces = [b"null", b"NaN", b"Infinity", b"[]", b"{}", b'"', b"\\ud800", b"\xe9", b"\xe2\x80\xa8", b"\n", b"\t", b",",
              b"\x00", b"1e999", b"[" * 50, b"\xef\xbb\xbf", b"true"]  # fmt: skip
    for _ in range(rng.randint(1, 3)):
        low = rng.randrange(len(content))
        high = min(len(content), low + rng.randint(0, 6))
        insert = rng.choice([rng.choice(pieces), content[low:high] * 2, b"", bytes([rng.randrange(256)])])
        content = content[:low] + insert + content[high:]
    return content


def test_thousands_of_damaged_files_end_in_a_dataset_or_in_one_message(build: Build, tmp_path: Path) -> None:
    """Of every layout; never a traceback, and no missing value becomes a word."""
    originals = {
        "q.json": json.dumps([GOOD, {**GOOD, "sequence": ["MK"], "answer": None}, {"question": "q", "answer": "a"}]),
        "q.jsonl": "\n".join(json.dumps(GOOD) for _ in range(3)), "s.json": json.dumps({"CC": [["q", "a"]], "CO": []}),
        "q.txt": "CID\tSMILES\tdescription\n1\tCCO\tan alcohol\n2\tCC\tok\n", "q.csv": 'smiles,description\nCC,"a, b"\nC,d\n',
        "q.dat": "AC   P1;\nDE   RecName: Full=A;\nCC   -!- FUNCTION: Binds.\nSQ   S\n     MK\n//\n",
    }  # fmt: skip
    rng = random.Random(0)
    until = time.monotonic() + 3
    tried = 0
    while time.monotonic() < until or tried < 2 * len(originals):
        name, content = list(originals.items())[tried % len(originals)]
        file = tmp_path / f"{tried}_{name}"
        file.write_bytes(_mutated(content.encode(), rng))
        tried += 1
        try:
            store = build(file)
        except UserError:
            continue
        answers = [store.text(number)[2] for number in range(len(store))]
        assert not {"None", "nan", "inf"} & set(answers), file.read_bytes()
