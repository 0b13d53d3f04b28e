"""Datasets that the library `datasets` saved: the same papers and questions as from JSON lines."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, disable_progress_bars

from megabiomed.corpus.arrow_rows import arrow_rows, saved_files
from megabiomed.corpus.readers import read_papers
from megabiomed.corpus.tables import with_saved
from megabiomed.corpus.unpack import UnpackLimits, unpacking
from megabiomed.ground.errors import DataError
from megabiomed.samples.questions.readers import read_questions

disable_progress_bars()
ROWS = [{"id": f"p{n}", "text": f"Paper {n} is on aspirin.", "year": 2000 + n} for n in range(200)]


def written(path: Path, table: pa.Table, codec: str | None = None) -> Path:
    with pa.OSFile(str(path), "wb") as file:
        options = pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_stream(file, table.schema, options=options) as stream:
            stream.write_table(table)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arrow") / "papers"
    Dataset.from_list(ROWS).save_to_disk(folder, num_shards=3)
    return folder


def test_a_saved_dataset_is_its_files_in_order_and_its_papers_are_those_of_the_lines(saved: Path) -> None:
    files = with_saved([saved])
    assert [file.name for file in files] == [f"data-0000{n}-of-00003.arrow" for n in range(3)]
    assert [row for file in files for row in arrow_rows(file)] == ROWS
    lines = saved.with_name("papers.jsonl")
    lines.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    expected = [(paper.paper_id, paper.text) for paper in read_papers(lines)]
    assert [(paper.paper_id, paper.text) for file in files for paper in read_papers(file)] == expected


def test_questions_of_the_hub_are_read_from_a_file_of_its_cache(tmp_path: Path) -> None:
    question = {
        "pubid": 7,
        "question": "Does aspirin lower fever?",
        "context": {"contexts": ["Aspirin was given."], "labels": ["METHODS"], "meshes": ["Fever"]},
        "long_answer": "It does.",
        "final_decision": "yes",
    }
    Dataset.from_list([question]).save_to_disk(tmp_path / "pubmedqa")
    found = read_questions(saved_files(tmp_path / "pubmedqa")[0])
    assert [(record.ident, record.question, record.answer) for record in found.records] == [
        ("7", question["question"], "yes")
    ]


def test_images_stay_bytes_and_nothing_is_decoded(tmp_path: Path) -> None:
    rows = [{"text": "A figure.", "image": {"bytes": b"no image at all", "path": None}}]
    features = Features({"text": Value("string"), "image": Image()})
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "figures")
    assert list(arrow_rows(saved_files(tmp_path / "figures")[0])) == rows


def test_folders_that_are_no_single_dataset_say_what_to_name(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder and no dataset"):
        with_saved([tmp_path])
    DatasetDict(train=Dataset.from_list(ROWS[:1]), test=Dataset.from_list(ROWS[1:2])).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"one dataset for each split: got test, train.*both/test"):
        with_saved([tmp_path / "both"])
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": f"../{saved.name}/x.arrow"}]}))
    with pytest.raises(DataError, match="names no file of its folder"):
        with_saved([tmp_path])
    with pytest.raises(DataError, match="is a folder; give a file in it"):
        read_questions(saved)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_packed_batches_are_refused_before_they_are_unpacked(tmp_path: Path, codec: str) -> None:
    path = written(tmp_path / "bomb.arrow", pa.table({"text": ["0" * (1 << 24)]}), codec)
    with pytest.raises(DataError, match="a packed record batch"):
        next(arrow_rows(path))
    words = pa.array(["0" * (1 << 24)]).dictionary_encode()
    with pytest.raises(DataError, match="a packed dictionary"):
        next(arrow_rows(written(tmp_path / "words.arrow", pa.table({"text": words}), codec)))


def test_a_value_that_all_rows_share_counts_for_each_of_them(tmp_path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 6400, pa.int32()), pa.array(["0" * 20_000]))
    path = written(tmp_path / "shared.arrow", pa.table({"text": values}))
    with unpacking(UnpackLimits(max_unpacked_bytes=1 << 26)), pytest.raises(DataError, match="max_unpacked_bytes"):
        list(arrow_rows(path))


def test_damage_is_a_refusal_and_never_another_error(saved: Path, tmp_path: Path) -> None:
    good, dice = saved_files(saved)[0].read_bytes(), random.Random(0)
    path, refused = tmp_path / "damaged.arrow", 0
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(dice.choice([1, 3, 20])):
            damaged[dice.randrange(len(damaged) if dice.random() < 0.5 else 900)] = dice.randrange(256)
        path.write_bytes(damaged[: dice.randrange(len(damaged))] if dice.random() < 0.2 else damaged)
        try:
            list(arrow_rows(path))
        except DataError:
            refused += 1
    assert refused > 100
