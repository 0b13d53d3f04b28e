"""Stores, windows and wrong input: questions whole, losses on answers, nothing dropped without a count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megabiomed.checkpoint.commit import CheckpointWriter, RunState
from megabiomed.checkpoint.state import TrainerState
from megabiomed.config import DataConfig, load_config
from megabiomed.config.finetune import FinetuneConfig, FinetuneRunConfig
from megabiomed.data.packing import IGNORE_INDEX
from megabiomed.evaluate.contamination import read_reports
from megabiomed.evaluate.model import trained_on
from megabiomed.evaluate.settings import EvaluateSettings, TaskSettings
from megabiomed.evaluate.tasks import build_task
from megabiomed.ground.errors import CheckpointError, ConfigError, DataError, TokenizerError
from megabiomed.samples.questions import sources
from megabiomed.samples.questions.loader import FinetuneLoader
from megabiomed.samples.questions.sources import check_tokenizers, opened, tokenizer_of
from megabiomed.samples.questions.store import BuildSettings, QuestionStore, build_store
from megabiomed.tokenizer.files import open_tokenizer
from megabiomed.tokenizer.interface import Tokenizer


@pytest.fixture
def tokenizer(corpus: Path) -> Tokenizer:
    return open_tokenizer(corpus / "tokenizer/tokenizer.model")


def built(path: Path, tokenizer: Tokenizer, folder: Path, **settings: object) -> QuestionStore:
    build_store([path], folder, tokenizer, replace(BuildSettings(256), **settings))  # type: ignore[arg-type]
    return QuestionStore(folder)


def test_losses_are_on_the_answers_and_questions_do_not_see_each_other(
    questions: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = built(questions / "medmcqa/train.jsonl", tokenizer, tmp_path / "s", window=250)
    data = DataConfig(seq_length=512, micro_batch_size=1, global_batch_size=4)
    loader = FinetuneLoader([store], FinetuneConfig.model_validate({"train": [{"path": str(tmp_path)}]}), data, seed=1)
    windows, seen = loader.windows[0], []
    documents = loader.documents[0]
    for number in range(len(windows)):
        window = windows.read(number)
        assert len(windows.records(number)) > 1  # packed
        place = 0
        for record in windows.records(number):
            ids = store.ids[store.id_ends[record] : store.id_ends[record + 1]]
            stop = place + len(ids) - 1
            assert window.tokens[place:stop].tolist() == ids[:-1].tolist()
            asked = np.flatnonzero(window.labels[place:stop] != IGNORE_INDEX)
            assert asked[0] == store.answer_start[record] - 1  # the last token of the prompt predicts the answer
            assert window.labels[place:stop][asked].tolist() == ids[store.answer_start[record] :].tolist()
            assert tokenizer.decode(ids[store.answer_start[record] : -1].tolist()) in "ABCD"
            assert ids[-1] == tokenizer.eos_id
            assert set(window.start[place:stop]) == {place}
            assert (record, place, len(ids) - 1, 0) in documents.parts(number)
            assert list(documents.windows(record)) == [number]
            assert (documents.origin(record)["paper_id"], record) in documents.find([str(store.idents[record])])
            place = stop
            seen.append(record)
        assert (window.labels[place:] == IGNORE_INDEX).all()
    assert sorted(seen) == list(range(len(store)))


def test_contexts_are_cut_and_counted_questions_are_not(questions: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = questions / "pubmedqa/ori_pqal.json"
    entries = json.loads(file.read_text())
    name = next(iter(entries))
    entries[name]["CONTEXTS"] = ["many words before " * 200, *entries[name]["CONTEXTS"]]
    asked = tmp_path / "long.json"
    asked.write_text(json.dumps(entries))
    store = built(asked, tokenizer, tmp_path / "s")
    assert store.manifest["cut"]["contexts"] == 1
    assert store.manifest["cut"]["words"] > 400
    assert int(np.diff(store.id_ends).max()) <= 257
    assert store.manifest["left_out"] == {}
    record = store.idents.to_pylist().index(name)
    ids = store.ids[store.id_ends[record] : store.id_ends[record + 1]].tolist()
    assert entries[name]["QUESTION"] in tokenizer.decode(ids)
    small = built(asked, tokenizer, tmp_path / "small", window=40)
    assert small.manifest["left_out"]["question longer than the window"] > 0
    rejects = [json.loads(line) for line in (tmp_path / "small/rejects.jsonl").read_text().splitlines()]
    assert len(rejects) + len(small) == len(entries)


def test_official_test_questions_of_pubmedqa_are_not_trained_on(
    questions: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = built(questions / "pubmedqa/ori_pqal.json", tokenizer, tmp_path / "s")
    held = json.loads((questions / "pubmedqa/test_ground_truth.json").read_text())
    assert not set(store.idents.to_pylist()) & set(held)
    assert len(store) == 80


def test_an_epoch_sees_every_question_as_often_as_asked_beside_its_replay(
    questions: Path, tokenizer: Tokenizer, corpus: Path, tmp_path: Path
) -> None:
    stores = [
        built(questions / f"{name}/train.jsonl", tokenizer, tmp_path / name, limit=30) for name in ("medmcqa", "medqa")
    ]
    values = {
        "train": [{"path": "a"}, {"path": "b", "repeat": 2}],
        "replay": [{"path": str(corpus / "train")}],
        "replay_share": 0.5,
    }
    data = DataConfig(seq_length=256, micro_batch_size=1, global_batch_size=1)
    loader = FinetuneLoader(stores, FinetuneConfig.model_validate(values), data, seed=1)
    ids = loader.order.sample_ids(0, loader.samples_per_epoch)
    counts = [int((ids[:, 0] == source).sum()) for source in range(3)]
    sizes = [len(windows) for windows in loader.windows]
    for count, wanted in zip(counts, (sizes[0], 2 * sizes[1], sizes[0] + 2 * sizes[1])):
        assert abs(count - wanted) <= 1


def test_a_store_of_longer_windows_another_tokenizer_and_missing_files_are_refused(
    finetune_file: Path, questions: Path, tokenizer: Tokenizer, corpus: Path, tmp_path: Path
) -> None:
    store = built(questions / "pubmedqa/ori_pqal.json", tokenizer, tmp_path / "s")
    data = DataConfig(seq_length=64, global_batch_size=1)
    with pytest.raises(DataError, match="built for longer windows"):
        FinetuneLoader([store], FinetuneConfig.model_validate({"train": [{"path": "s"}]}), data, 1)
    with pytest.raises(DataError, match="already exists"):
        build_store([questions / "medmcqa/train.jsonl"], tmp_path / "s", tokenizer, BuildSettings(256))
    config = read(finetune_file, "finetune.train.0.path=missing.json", f"run_dir={tmp_path / 'r'}")
    with pytest.raises(DataError, match=r"missing\.json is not there"):
        opened(config)
    assert not list((tmp_path / "r").rglob("*.building*"))
    with pytest.raises(DataError, match="is not a store of questions"):
        opened(read(finetune_file, f"finetune.train.0.path={tmp_path}", "finetune.train.0.limit=null"))
    with pytest.raises(ConfigError, match="no such template: got nope"):
        opened(read(finetune_file, "finetune.train.0.template=nope"))
    with pytest.raises(DataError, match="listed twice"):
        build_store([questions / "medmcqa/train.jsonl"] * 2, tmp_path / "t", tokenizer, BuildSettings(256))
    with pytest.raises(
        DataError, match=r"train\.jsonl fits into 9 tokens: got {'question longer than the window': 80}"
    ):
        build_store([questions / "medmcqa/train.jsonl"], tmp_path / "t", tokenizer, BuildSettings(9))
    with pytest.raises(TokenizerError, match="no tokenizer"):
        tokenizer_of(read(finetune_file, "finetune.start_from=null"))
    assert tokenizer_of(read(finetune_file, f"data.tokenizer={corpus}/t.model")) == corpus / "t.model"


def test_training_questions_are_no_validation_set(finetune_file: Path, questions: Path, tmp_path: Path) -> None:
    run = f"run_dir={tmp_path / 'r'}"
    with pytest.raises(DataError, match=r"finetune.validation holds training questions of .*: got 60 of 80, e\.g\."):
        opened(read(finetune_file, run, f"finetune.validation={{path: {questions}/pubmedqa/ori_pqal.json}}"))
    held = f"finetune.validation={{path: {questions}/pubmedqa/ori_pqal.json, split: test}}"
    _, validation, _ = opened(read(finetune_file, run, held))
    assert validation is not None
    assert len(validation) == 20
    # A copy under another name is the same set; the same ids of another file are not.
    copy, other = tmp_path / "copy.jsonl", tmp_path / "other.jsonl"
    rows = [json.loads(line) for line in (questions / "medmcqa/train.jsonl").read_text().splitlines()]
    copy.write_text("".join(json.dumps(row) + "\n" for row in rows[:3]))
    other.write_text("".join(json.dumps({**row, "question": f"Another {row['id']}?"}) + "\n" for row in rows))
    with pytest.raises(DataError, match="got 3 of 3"):
        opened(read(finetune_file, run, f"finetune.validation={{path: {copy}}}"))
    assert opened(read(finetune_file, run, f"finetune.validation={{path: {other}}}"))[1] is not None


def test_a_store_refuses_what_was_decided_when_it_was_built(
    finetune_file: Path, questions: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    store = built(questions / "medmcqa/test.jsonl", tokenizer, tmp_path / "s")
    for keys in ("limit: 5", "template: medmcqa", "split: test"):
        with pytest.raises(ConfigError, match=rf"chosen when it was built: got {keys}; leave"):
            opened(read(finetune_file, f"finetune.validation={{path: {store.path}, {keys}}}", f"run_dir={tmp_path}/r"))


def test_a_run_that_goes_on_takes_the_tokenizer_from_its_checkpoint(
    finetune_file: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = read(finetune_file, f"run_dir={tmp_path / 'r'}", f"finetune.start_from={tmp_path / 'gone'}", "lora=null")
    with pytest.raises(CheckpointError, match="gone"):
        tokenizer_of(config)
    state = RunState(TrainerState(), config.model.model_dump(mode="json"), "", tokenizer.path)
    saved = CheckpointWriter(config.folder / "checkpoints").save(2, [], state)
    assert tokenizer_of(config) == saved / "tokenizer/tokenizer.model"
    stores, _, _ = opened(config)
    assert saved not in check_tokenizers(config, [*stores]).parents  # retention may remove that checkpoint


def test_what_does_not_fit_together_is_refused_when_the_file_is_read(finetune_file: Path) -> None:
    for override, message in (
        ("finetune.replay_share=0", "replay_share"),
        ("data.train=[{path: x}]", "belong to pretraining"),
        ("model.init_from=x", "give one"),
        ("lora.targets=[q, q]", "repeat"),
        ("lora.targets=[w]", "lora.targets"),
        ("finetune.startfrom=x", "did you mean 'finetune.start_from'"),
    ):
        with pytest.raises(ConfigError, match=message):
            read(finetune_file, override)


def read(file: Path, *overrides: str) -> FinetuneRunConfig:
    config = load_config(file, list(overrides), FinetuneRunConfig)
    assert isinstance(config, FinetuneRunConfig)
    return config


def changed(file: Path, to: Path, count: int) -> Path:
    """The first questions of a file under other ids, each with a word before it, in capitals."""
    rows = [json.loads(line) for line in file.read_text().splitlines()[:count]]
    for number, row in enumerate(rows):
        row |= {"id": f"new-{number}", "question": f"Now: {row['question'].upper()}"}
    to.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return to


def test_changed_copies_of_training_questions_in_validation_are_counted_once_and_listed(
    finetune_file: Path, questions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = changed(questions / "medmcqa/train.jsonl", tmp_path / "copies.jsonl", 30)
    run = f"run_dir={tmp_path / 'r'}"
    assert opened(read(finetune_file, run))[2] == []  # the generated test questions are others
    config = read(finetune_file, run, f"finetune.validation={{path: {copies}}}")
    (warning,) = opened(config)[2]
    assert warning.startswith(
        "30 of 30 questions of finetune.validation are nearly training questions, e.g. new-0 and "
    )
    listed = json.loads(Path(warning.rpartition(" in ")[2]).read_text())
    assert (listed["searched"], len(listed["copies"])) == (30, 30)
    monkeypatch.setattr(sources, "find_repeated", pytest.fail)
    assert opened(config)[2] == [warning]


def test_an_evaluation_marks_drops_or_refuses_what_the_run_was_fine_tuned_on(
    finetune_file: Path, questions: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    config = read(finetune_file, f"run_dir={tmp_path / 'r'}")
    opened(config)
    texts, stores = trained_on(config, (tmp_path / "r").rename(tmp_path / "moved"))
    assert [store.parent for store in stores] == [tmp_path / "moved/questions"] * 2
    file = changed(questions / "medmcqa/train.jsonl", tmp_path / "asked.jsonl", 2)
    file.write_text(file.read_text() + (questions / "medmcqa/test.jsonl").read_text())
    task, known = TaskSettings(name="exam", path=file), read_reports(texts, [], stores)
    asked = EvaluateSettings(model=tmp_path)
    found = build_task(task, asked, tokenizer, 512, known)
    assert found.notes[-1].startswith(
        "2 of 22 questions are, or nearly are, training questions of the model, e.g. new-0 is"
    )
    assert [item.record.ident for item in found.items if item.contaminated] == ["new-0", "new-1"]
    assert found.header()["training_questions_compared"] == 60 + 40
    dropped = build_task(task, asked.model_copy(update={"contaminated": "drop"}), tokenizer, 512, known)
    assert (len(dropped.items), dropped.dropped) == (20, 2)
    with pytest.raises(DataError, match="the training data holds questions"):
        build_task(task, asked.model_copy(update={"contaminated": "refuse"}), tokenizer, 512, known)


def test_what_an_earlier_run_was_trained_on_is_unknown_where_it_is_gone(finetune_file: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    texts, stores = trained_on(read(finetune_file, f"finetune.start_from={gone}"), tmp_path)
    assert texts[-1] == gone
    assert len(read_reports(texts, [], stores).unchecked) == 4  # two files of questions, the replay, the earlier run
