"""A step is explained: its documents, their losses, and a paper that is masked from the next start on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from support.in_process import train_here
from support.runs import events, losses

from megabiomed.checkpoint.reader import Checkpoint
from megabiomed.data.quarantine import QUARANTINE, add_entry
from megabiomed.ground.errors import DataError
from megabiomed.runs.explain.explain import explain, put_into_quarantine
from megabiomed.runs.explain.found import Explanation, Piece, keep
from megabiomed.runs.explain.told import lines_of
from megabiomed.runs.report.write import write_report

BATCH = 4


@pytest.fixture
def trained(corpus: Path, tmp_path: Path, alone: None) -> Any:
    """Train in this process; `health.sigma` is so low that steps are spikes."""
    values = {
        "model": {"base": "tiny", "vocab_size": 600, "num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16},
        "data": {"train": [{"path": str(corpus / "train")}], "seq_length": 64, "micro_batch_size": 4,
                 "global_batch_size": BATCH},
        "optimizer": {"lr": 1e-3, "warmup_steps": 2}, "train": {"steps": 12, "precision": "fp32", "log_every": 1},
        "parallel": {"zero_stage": 1}, "checkpoint": {"save_every": 4, "keep_last": 9}, "tracking": {"kind": None},
        "health": {"spike": "warn", "window": 8, "sigma": 0.01},
    }  # fmt: skip
    return lambda *overrides, name="run": train_here(tmp_path, name, values, *overrides)


def test_losses_of_the_documents_add_up_to_the_loss_of_the_step(trained: Any, tmp_path: Path) -> None:
    folder = trained()
    said: list[str] = []
    found = explain(folder, 9, None, True, said.append)
    assert found.checkpoint == 8
    assert found.loss == pytest.approx(losses(folder)[9], rel=1e-5)
    assert [piece.badness for piece in found.pieces] == sorted((p.badness for p in found.pieces), reverse=True)
    assert sum(high - low for low, high in (piece.tokens for piece in found.pieces)) == BATCH * 64
    assert all(piece.begins for piece in found.pieces)
    spikes = [event for event in events(folder) if event["event"] == "spike"]
    told = {paper["paper_id"] for event in spikes if event["step"] == 9 for paper in event["papers"]}
    assert spikes  # with so low a limit
    if told:
        assert told == {piece.paper_id for piece in found.pieces}
    keep(folder, found)
    (page,) = write_report([folder], tmp_path / "page.html")
    text = page.read_text()
    assert "Papers of events" in text
    assert found.pieces[0].paper_id in text
    assert f"megabiomed explain {folder} --step" in text or len(spikes) == 1
    with pytest.raises(DataError, match="step 9 has not read the paper: got no-such"):
        put_into_quarantine(found, "no-such", None)
    assert f"{QUARANTINE}: {found.pieces[0].paper_id} is masked" in put_into_quarantine(found, None, "worst")
    again = explain(folder, 9, None, False, said.append)
    assert {piece.paper_id for piece in again.pieces if piece.quarantined} == {found.pieces[0].paper_id}
    with pytest.raises(DataError, match="not known without losses"):
        put_into_quarantine(again, None, None)


def test_a_quarantined_paper_is_masked_from_the_next_start_on_and_everything_says_so(trained: Any) -> None:
    folder = trained("train.stop_after=6")
    said: list[str] = []
    explained = explain(folder, 8, None, False, said.append)
    assert said == ["the run has come to step 6: what follows is what step 8 would read"]
    paper = explained.pieces[0].paper_id
    before = Checkpoint.open(folder / "checkpoints" / "step_00000006").trainer.data
    assert before.quarantined == []
    add_entry(folder, paper, "test")
    trained()
    after = Checkpoint.open(folder / "checkpoints" / "step_00000012").trainer.data
    assert (after.quarantined, after.next_sample) == ([paper], 12 * BATCH)
    (resumed,) = (event for event in events(folder) if event["event"] == "resume")
    assert resumed["quarantined"] == [paper]
    assert f"quarantine: none -> {paper}" in resumed["changed"]
    (folder / QUARANTINE).write_text('{"paper_id": "no-such"}\n')
    with pytest.raises(DataError, match="line 1: no training data of this run has the paper: got no-such"):
        trained("train.steps=13")


def test_masked_runs_are_the_same_in_one_go_and_after_a_resume(trained: Any, tmp_path: Path) -> None:
    clean = Checkpoint.open(trained(name="clean") / "checkpoints" / "step_00000012")
    paper = explain(tmp_path / "clean", 8, None, False, lambda line: None).pieces[0].paper_id
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        add_entry(tmp_path / name, paper, "test")
    whole = trained(name="whole")
    trained("train.stop_after=6", name="cut")
    ends = [Checkpoint.open(folder / "checkpoints" / "step_00000012") for folder in (whole, trained(name="cut"))]
    assert ends[0].trainer.data == ends[1].trainer.data
    assert ends[0].trainer.data.ids_hash != clean.trainer.data.ids_hash
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")
    assert losses(tmp_path / "whole")[8] != losses(tmp_path / "clean")[8]  # reads the paper


def test_what_is_not_finite_comes_first_and_stays_readable() -> None:
    pieces = [
        Piece(4, 0, 0, 7, f"p{number}", "", "The beginning", (0, 5), 0, loss=loss, loss_tokens=4)
        for number, loss in enumerate([2.0, math.nan, None, 3.0])
    ]
    pieces.sort(key=lambda piece: -piece.badness)
    assert [piece.paper_id for piece in pieces] == ["p1", "p3", "p0", "p2"]
    found = Explanation("runs/x", 3, 4, 1, True, {"event": "spike", "policy": "warn"}, 2, "", pieces)
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["pieces"][0]["loss"] == "not finite"
    lines = list(lines_of(found, 1))
    assert lines[-1].startswith("loss: not finite paper: p1 tokens: 0 to 4 sample: 4")
    assert "(1 of 4; --top 0 shows all)" in lines[-2]
