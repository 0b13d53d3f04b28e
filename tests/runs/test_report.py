"""The report of a run: figures worked out by hand from its files, and pages that a browser shows."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from megabiomed.config import RunConfig, load_config
from megabiomed.ground.errors import CheckpointError
from megabiomed.runs.effective import keep
from megabiomed.runs.environment import keep_environment
from megabiomed.runs.report.facts import RunFacts, read_facts
from megabiomed.runs.report.reading import reading_part
from megabiomed.runs.report.write import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC).timestamp()
TOKENS = 4 * 100
"""Of a step: one second at 400 tokens/s."""


def at(second: float) -> str:
    return datetime.fromtimestamp(NOON + second, UTC).isoformat(timespec="milliseconds")


def line(second: float, step: int, speed: float, loss: float, **more: float | str) -> dict[str, Any]:
    return {"step": step, "time": at(second), "train/loss": loss, "train/tokens_per_s": speed, **more}


def make_run(folder: Path, lr: float = 1e-3) -> RunConfig:
    """Killed at step 7 of 10 with a checkpoint of step 4; the second start does steps 5 to 7 again, and finishes."""
    config = RunConfig.model_validate(
        {"name": "r", "run_dir": folder, "train": {"steps": 10}, "optimizer": {"lr": lr},
         "data": {"global_batch_size": 4, "seq_length": 100, "micro_batch_size": 1}}
    )  # fmt: skip
    folder.mkdir()
    keep(config)
    keep_environment(folder, 2)
    events = [
        {"time": at(10), "event": "start", "step": 0},
        {"time": at(12), "event": "first_step", "step": 1, "seconds": 12.0},
        {"time": at(16), "event": "save", "step": 4, "pause_s": 2.0},
        {"time": at(110), "event": "resume", "step": 4, "changed": ["optimizer.lr: 0.002 -> 0.001 <b>"]},
        {"time": at(111), "event": "first_step", "step": 5, "seconds": 6.0},
        {"time": at(114), "event": "warning", "what": "a <strange> paper", "step": 7},
        {
            "time": at(115),
            "event": "slow_rank",
            "step": 8,
            "rank": 1,
            "host": "node-7",
            "work": "stage 0",
            "part": "compute",
            "factor": 1.8,
            "lost": 0.4,
        },
        {"time": at(120), "event": "save", "step": 10, "pause_s": 1.0},
        {"time": at(121), "event": "finished", "step": 10, "sample": 40, "ids_hash": "cafe"},
    ]
    metrics = [
        line(14, 2, 400.0, 3.0),  # two seconds
        {"step": 2, "time": at(15), "validation/loss": 2.9, "evaluation/a_perplexity": 9.0},
        line(20, 7, 500.0, 2.5),  # five steps in four seconds, three of them in vain
        line(116, 8, 200.0, "not finite"),  # type: ignore[arg-type]
        line(119, 10, 800.0, 2.0, **{"train/own_figure": 5.0}),
        {"step": 10, "time": at(119), "ranks/compute_s": 0.5, "ranks/wait_s": 0.25, "ranks/data_s": 0.0},
        {"step": 10, "time": at(120), "validation/loss": 2.1, "evaluation/a_perplexity": 6.0},
    ]
    for name, held in (("events.jsonl", events), ("metrics.jsonl", metrics)):
        (folder / name).write_text("".join(json.dumps(each) + "\n" for each in held))
    times = [{"rank": n, "host": f"node-{n}", "work": "stage 0", "compute_s": 0.4 + n / 5, "wait_s": 0.2, "data_s": 0.0}
             for n in range(2)]  # fmt: skip
    (folder / "ranks.json").write_text(json.dumps({"step": 10, "ranks": times}))
    return config


def test_every_second_of_every_start_is_in_one_part(tmp_path: Path) -> None:
    facts = read_facts(tmp_path / "r", make_run(tmp_path / "r"))
    first, second = facts.starts
    assert (first.ending, first.last_step, second.ending, second.last_step) == ("killed", 7, "finished", 10)
    assert (first.wall_s, second.wall_s) == (20.0, 121.0 - 105.0)
    assert first.training_s == pytest.approx(2 + 4)
    assert first.lost_s == pytest.approx(4 * 3 / 5)
    assert second.training_s == pytest.approx(4 * 2 + 2 / 2)
    time = facts.time()
    assert time == pytest.approx(
        {"steps": 15 - 2.4, "steps done again": 2.4, "start-up": 18.0, "saves": 3.0, "validation and other": 0.0}
    )
    assert sum(time.values()) == pytest.approx(36.0)
    assert facts.goodput() == pytest.approx(12.6 / 36)


def test_steps_before_a_rewind_count_as_done_again(tmp_path: Path) -> None:
    config = make_run(tmp_path / "r")
    events = [
        {"time": at(10), "event": "start", "step": 0},
        {"time": at(11), "event": "first_step", "step": 1, "seconds": 1.0},
        {"time": at(16), "event": "rewind", "step": 6, "to_step": 4},
        {"time": at(22), "event": "finished", "step": 10},
    ]
    metrics = [line(12, 2, 400.0, 3.0), line(15, 5, 400.0, 3.0), line(18, 6, 400.0, 3.0), line(22, 10, 400.0, 3.0)]
    metrics.insert(2, line(16, 6, 400.0, 9.0))
    for name, held in (("events.jsonl", events), ("metrics.jsonl", metrics)):
        (tmp_path / "r" / name).write_text("".join(json.dumps(each) + "\n" for each in held))
    (start,) = read_facts(tmp_path / "r", config).starts
    assert (start.last_step, start.rewound_to) == (10, [4])
    assert (start.training_s, start.lost_s) == (pytest.approx(6 + 2 + 4), pytest.approx(2))


def test_lines_of_releases_without_times_belong_to_the_start_that_did_their_steps(tmp_path: Path) -> None:
    config = make_run(tmp_path / "r")
    file = tmp_path / "r/metrics.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    lines[2]["step"] = 4
    file.write_text("".join(json.dumps({k: v for k, v in each.items() if k != "time"}) + "\n" for each in lines))
    first, second = read_facts(tmp_path / "r", config).starts
    assert (first.training_s, second.training_s) == (pytest.approx(2 + 2 / 1.25), pytest.approx(9))


def test_the_page_tells_state_curves_starts_changes_and_events(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    assert write_report([tmp_path / "r"], tmp_path / "r.html", tmp_path / "r.csv") == [
        tmp_path / "r.html", tmp_path / "r.csv"
    ]  # fmt: skip
    page = (tmp_path / "r.html").read_text()
    for said in (
        "finished, 10 steps, 4,000 tokens", "35.0% of the time", "optimizer.lr: 0.002 -&gt; 0.001 &lt;b&gt;",
        "a &lt;strange&gt; paper", "cafe", "train/own_figure", "-33.3%", "last train/loss", "2.0000 at step 10",
        "<td>node-7</td><td>stage 0</td><td>compute</td><td>1.8 x</td><td>8</td>", "rank 1 on node-1, 0.6 s",
    ):  # fmt: skip
        assert said in page, said
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    rows = {row["step"]: row for row in csv.DictReader((tmp_path / "r.csv").open())}
    assert rows["10"]["train/loss"] == "2.0"
    assert rows["8"]["train/loss"] == "nan"
    assert rows["2"]["validation/loss"] == "2.9"


def test_the_page_says_what_was_read_and_nothing_without_the_data(run_file: Path, tmp_path: Path) -> None:
    config = load_config(str(run_file))
    facts = RunFacts(tmp_path, config, [{"event": "finished", "step": 2, "sample": 8}], {}, [])
    part = reading_part(facts)
    assert "8 samples were read; the shares of tokens are those of all." in part
    assert f"<td>{config.data.train[0].path}</td><td>" in part
    moved = config.model_copy(update={"data": config.data.model_copy(
        update={"train": [config.data.train[0].model_copy(update={"path": tmp_path / "gone"})]})})  # fmt: skip
    assert reading_part(RunFacts(tmp_path, moved, facts.events, {}, [])) == ""


def test_two_runs_are_compared_with_the_settings_in_which_they_differ(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", lr=5e-4)
    write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "ab.html", tmp_path / "ab.csv")
    page = (tmp_path / "ab.html").read_text()
    assert "<td>optimizer.lr</td><td>0.001</td><td>0.0005</td>" in page
    assert f"r ({tmp_path / 'b'})" in page  # both have the name r
    assert len(list(csv.reader((tmp_path / "ab.csv").open()))) == 1 + 2 * 4


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    config = {"name": "never", "run_dir": str(tmp_path / "never"), "train": {"steps": 1}}
    (tmp_path / "never").mkdir()
    (tmp_path / "never/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(CheckpointError, match="is a folder without a run"):
        write_report([tmp_path / "never"], tmp_path / "x.html")
    assert not (tmp_path / "x.html").exists()


@pytest.mark.skipif(
    BROWSER is None, reason="no headless browser here: apt-get install --no-install-recommends chromium"
)
def test_a_headless_browser_shows_the_page(tmp_path: Path) -> None:
    make_run(tmp_path / "r")
    write_report([tmp_path / "r"], tmp_path / "r.html")
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}",
         "--dump-dom", (tmp_path / "r.html").as_uri()],
        capture_output=True, text=True, timeout=90, check=True,
    )  # fmt: skip
    titles = [
        "Loss",
        "Speed and memory",
        "Where the time went",
        "Ranks",
        "Starts",
        "Questions and perplexities",
        "Events",
    ]
    assert [title for title in titles if f"<h2>{title}</h2>" in done.stdout] == titles
    assert done.stdout.count("<svg") >= 5
