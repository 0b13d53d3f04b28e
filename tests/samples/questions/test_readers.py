"""Every published layout is read by its keys; what cannot be asked is listed with its reason, never dropped in silence."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from megabiomed.cli import app
from megabiomed.ground.errors import DataError, UserError
from megabiomed.samples.questions.generate import generate_questions
from megabiomed.samples.questions.readers import default_split, read_questions
from megabiomed.samples.rejects import write_rejects

SHARED = Path(__file__).parents[4] / "shared" / "data"


def mcq(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "question": f"What is {number}?", "opa": "a", "opb": "b", "opc": "c", "opd": "d",
            "cop": 1 + number % 4, "subject_name": "Anatomy", **changes}  # fmt: skip


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    generate_questions(folder, train=30, test=10)
    return folder


def test_the_generated_set_is_read_in_every_layout_and_its_splits_are_disjoint(generated: Path) -> None:
    abstracts = generated / "pubmedqa" / "ori_pqal.json"
    train, test = read_questions(abstracts, "train"), read_questions(abstracts, default_split(abstracts))
    assert (len(train.records), len(test.records)) == (30, 10)
    assert not {r.question for r in train.records} & {r.question for r in test.records}
    for kind, options in (("medmcqa", 4), ("medqa", 5), ("free", 0)):
        train, test = (read_questions(generated / kind / f"{name}.jsonl") for name in ("train", "test"))
        assert train.kind == kind
        assert not train.rejects
        assert {len(r.options) for r in train.records} == {options}
        assert not {(r.question, r.options) for r in train.records if options} & {
            (r.question, r.options) for r in test.records
        }


def test_files_without_test_questions_lie_beside_the_ground_truth_as_pubmedqa_publishes_them(
    generated: Path, tmp_path: Path
) -> None:
    for name in ("ori_pqal.json", "test_ground_truth.json"):
        shutil.copy(generated / "pubmedqa" / name, tmp_path)
    entries = json.loads((tmp_path / "ori_pqal.json").read_text())
    artificial, part = tmp_path / "ori_pqaa.json", tmp_path / "part.json"
    artificial.write_text(json.dumps({f"a{name}": entry for name, entry in entries.items()}))
    assert default_split(artificial) == "all"
    assert len(read_questions(artificial, "auto").records) == 40
    assert default_split(tmp_path / "ori_pqal.json") == "test"
    assert len(read_questions(tmp_path / "ori_pqal.json", "auto").records) == 30
    part.write_text(json.dumps(dict(list(entries.items())[:-1])))  # a test question is missing: which release is it?
    for split in ("auto", default_split(part)):
        with pytest.raises(DataError, match=r"got 1, e\.g\."):
            read_questions(part, split)


def test_bad_entries_are_listed_with_id_and_reason_and_good_ones_are_kept(tmp_path: Path) -> None:
    rows = [mcq(0), mcq(3), mcq(1, question=" "), mcq(2, opc=""), mcq(4, cop=7), mcq(5, cop=None), mcq(0), "{broken",
            ["no object"], {"other": 1}]  # fmt: skip
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert [r.ident for r in found.records] == ["q0", "q3"]
    assert [(r.source, r.reason) for r in found.rejects] == [
        ("q.jsonl:3", "empty question"), ("q.jsonl:4", "missing options"), ("q.jsonl:5", "label out of range"),
        ("q.jsonl:6", "no label"), ("q.jsonl:7", "duplicate id"), ("q.jsonl:8", "no JSON"),
        ("q.jsonl:9", "not an object"), ("q.jsonl:10", "other layout than the file"),
    ]  # fmt: skip
    write_rejects(tmp_path / "rejects.jsonl", found.rejects)
    assert json.loads((tmp_path / "rejects.jsonl").read_text().splitlines()[1])["id"] == "q2"


def test_texts_that_no_tokenizer_takes_nested_options_and_a_stray_first_line_are_left_out(tmp_path: Path) -> None:
    stray = {"question": "q", "answer": "a"}  # alone it would make the file one of free answers
    rows = [stray, mcq(1), mcq(2), mcq(3, question="half a pair \ud800"), mcq(4, opb={"a": 1}), mcq(5, id="\udfff")]
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert (found.kind, [record.ident for record in found.records]) == ("medmcqa", ["q1", "q2"])
    assert found.reasons() == {"other layout than the file": 1, "no valid text": 2, "missing options": 1}
    write_rejects(tmp_path / "rejects.jsonl", found.rejects)
    assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "no entries"), ("[]", "no entries"), ("[" * 10**5, "neither a JSON document"), (None, "is a folder")],
)
def test_files_with_nothing_in_them_say_so(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "q.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read_questions(tmp_path / "q.json" if content is not None else tmp_path)


def test_options_count_from_one_or_from_zero_but_not_both(tmp_path: Path) -> None:
    hub = read_questions(write_lines(tmp_path / "hub.jsonl", [mcq(n, cop=n % 4) for n in range(4)]))
    assert [r.answer for r in hub.records] == ["a", "b", "c", "d"]
    with pytest.raises(DataError, match="from 0 and from 1"):
        read_questions(write_lines(tmp_path / "both.jsonl", [mcq(0, cop=0), mcq(1, cop=4)]))


@pytest.mark.parametrize("kind", [str, float])
def test_options_as_text_or_floats_count_as_numbers_do(tmp_path: Path, kind: type) -> None:
    hub = read_questions(write_lines(tmp_path / "hub.jsonl", [mcq(n, cop=kind(n % 4)) for n in range(4)]))
    assert [r.answer for r in hub.records] == ["a", "b", "c", "d"]
    published = read_questions(write_lines(tmp_path / "q.jsonl", [mcq(n, cop=kind(1 + n % 4)) for n in range(4)]))
    assert ([r.answer for r in published.records], published.notes) == (["a", "b", "c", "d"], [])
    hidden = read_questions(write_lines(tmp_path / "h.jsonl", [mcq(3), mcq(1, cop=kind(-1)), mcq(2, cop=float("inf"))]))
    assert [r.reason for r in hidden.rejects] == ["no label", "label out of range"]


def test_missing_values_are_no_options_labels_ids_or_subjects(tmp_path: Path) -> None:
    nan = float("nan")
    rows = [mcq(0, opb=nan), mcq(1, cop=nan), mcq(2, opc=True), mcq(3, subject_name=nan, id=nan), mcq(7, opa=5, id=nan),
            mcq(8, opa=10**400)]  # fmt: skip
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert found.reasons() == {"missing options": 2, "no label": 1}
    assert [(r.ident, r.subject, r.options[0]) for r in found.records] == [
        ("q.jsonl:4", "", "a"), ("q.jsonl:5", "Anatomy", "5"), ("q8", "Anatomy", str(10**400)),
    ]  # fmt: skip
    row = {"question": "Which?", "options": {"A": "x", "B": nan, "C": nan}, "answer_idx": nan, "answer": "x"}
    with pytest.raises(DataError, match="missing options"):
        read_questions(write_lines(tmp_path / "m.jsonl", [row]))


def test_thousands_of_damaged_files_are_inspected_or_refused_with_one_message(tmp_path: Path) -> None:
    """Through the command; anything but an error of the user would be a traceback."""
    rows = [
        mcq(1), {"question": "Which?", "options": {"A": "x", "B": "y"}, "answer_idx": "A", "answer": "x"},
        {"QUESTION": "q", "CONTEXTS": ["c"], "final_decision": "yes"}, {"question": "q", "answers": ["a"]},
    ]  # fmt: skip
    originals = [
        write([row, row]) for row in rows for write in (json.dumps, lambda held: "\n".join(map(json.dumps, held)))
    ]
    hostile = [
        b"null",
        b"NaN",
        b"[]",
        b"{}",
        b'"',
        b"\\ud800",
        b"\xe9",
        b"\n",
        b",",
        b"\x00",
        b"1e999",
        b"[" * 50,
        b":",
    ]
    rng = random.Random(0)
    until = time.monotonic() + 2
    tried = 0
    while time.monotonic() < until or tried < len(originals):
        content = originals[tried % len(originals)].encode()
        for _ in range(rng.randint(1, 3)):
            low = rng.randrange(len(content))
            high = low + rng.randint(0, 6)
            content = content[:low] + rng.choice([*hostile, content[low:high] * 2, b""]) + content[high:]
        (tmp_path / "q.json").write_bytes(content)
        tried += 1
        with suppress(UserError):
            app(["qa", "inspect", str(tmp_path / "q.json")], standalone_mode=False)


def test_a_context_of_several_parts_is_kept_and_one_that_is_no_text_is_refused(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a"}
    rows = [{**row, "context": ["one", "two"]}, {**row, "context": {"a": 1}}, {**row, "context": None}]
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert ([r.context for r in found.records], found.reasons()) == (["one\ntwo", ""], {"context is not text": 1})


def test_an_id_that_occurs_twice_in_an_object_is_listed(tmp_path: Path) -> None:
    entry = json.dumps({"QUESTION": "Is it?", "CONTEXTS": ["It is."], "final_decision": "yes"})
    other = entry.replace("Is it?", "Is it not?")
    (tmp_path / "q.json").write_text(f'{{"7": {entry}, "8": {entry}, "7": {other}}}')
    found = read_questions(tmp_path / "q.json")
    assert [(r.ident, r.question) for r in found.records] == [("7", "Is it?"), ("8", "Is it?")]
    assert [(r.ident, r.reason) for r in found.rejects] == [("7", "duplicate id")]


def test_damaged_files_are_named(generated: Path, tmp_path: Path) -> None:
    whole = gzip.compress((generated / "medmcqa" / "test.jsonl").read_bytes())
    for name, content in (("cut", whole[:-40]), ("damaged", whole[:40] + b"\xff" * 40 + whole[80:])):
        (tmp_path / f"{name}.jsonl.gz").write_bytes(content)
        with pytest.raises(DataError, match=f"{name}.jsonl.gz is .* gzip data"):
            read_questions(tmp_path / f"{name}.jsonl.gz")
    shutil.copy(generated / "pubmedqa" / "ori_pqal.json", tmp_path)
    for content, message in (("{broken", "cannot be read"), ("[1]", "no ground truth")):
        (tmp_path / "test_ground_truth.json").write_text(content)
        with pytest.raises(DataError, match=f"test_ground_truth.json .*{message}"):
            read_questions(tmp_path / "ori_pqal.json", "test")


@pytest.mark.parametrize(
    ("name", "content"), [("a.json", '{"x": {"y": 1}}'), ("b.jsonl", '{"prompt": 1}\n{'), ("c", "3")]
)
def test_an_unknown_layout_is_an_error_that_names_the_known_ones(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="no known layout"):
        read_questions(tmp_path / name)


def test_medqa_takes_letters_or_texts_and_refuses_answers_that_disagree(tmp_path: Path) -> None:
    base = {"question": "Which?", "options": {"A": "x", "B": "y"}}
    rows = [
        {**base, "answer_idx": "B", "answer": "y"}, {**base, "answer": "x"}, {**base, "answer_idx": "A", "answer": "y"},
        {**base, "answer_idx": "F"}, {"question": "Which?", "options": [], "answer": "x"},
        {"question": "Which?", "options": [{"key": "A", "value": "x"}, {"key": "B", "value": "y"}], "answer_idx": "B"},
    ]  # fmt: skip
    found = read_questions(write_lines(tmp_path / "q.jsonl", rows))
    assert [r.label for r in found.records] == [1, 0, 1]
    assert [r.reason for r in found.rejects] == [
        "answer and answer_idx disagree",
        "label out of range",
        "missing options",
    ]


def test_parquet_holds_the_same_questions_as_the_lines_it_was_made_from(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [mcq(n, cop=n % 4) for n in range(6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    lines = read_questions(write_lines(tmp_path / "q.jsonl", rows)).records
    table = read_questions(tmp_path / "q.parquet").records
    assert [(r.ident, r.options, r.label) for r in table] == [(r.ident, r.options, r.label) for r in lines]


@pytest.mark.skipif(not (SHARED / "medmcqa").is_dir(), reason="the real files are not here")
def test_the_published_files_are_read_whole() -> None:
    pubmedqa = SHARED / "pubmedqa" / "ori_pqal.json"
    test, train = read_questions(pubmedqa, "test"), read_questions(pubmedqa, "train")
    assert (len(test.records), len(train.records), test.rejects) == (500, 500, [])
    medmcqa = read_questions(SHARED / "medmcqa" / "dev.json")
    assert (len(medmcqa.records), medmcqa.rejects, medmcqa.notes) == (4183, [], [])
