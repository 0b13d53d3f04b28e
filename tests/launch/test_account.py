"""What runs took from the cluster: from SLURM's accounting, from their own records, in sum."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.scheduling import program
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.launch.account import accounts, total
from megabiomed.launch.account_table import as_csv, rows
from megabiomed.launch.usage import Allocation, Trained, count_nodes, of_accounting, of_records, with_training

HOUR = 3600
EPOCH = 1_767_225_600  # 2026-01-01T00:00:00+00:00


def at(seconds: float) -> str:
    """A time of the records, so long after the beginning of 2026 in UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(EPOCH + seconds, UTC).isoformat(timespec="seconds")


def lines(file: Path, *records: dict[str, object]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two starts of 4 GPUs: an hour, and then half of it on one node of two; between them ten minutes in the queue."""
    monkeypatch.setenv("PATH", "")
    folder = tmp_path / "lm"
    (folder / "slurm").mkdir(parents=True)
    job = {
        "chain": "c", "stage": "lm", "kind": "pretrain", "members": [str(folder)], "after": [], "controls": [],
        "job_id": "7", "nodes": 2, "ranks": 4, "time": "24:00:00", "prepared": at(0), "submitted": at(0),
        "resources": {"nodes": 2, "gpus": 4, "cpus": 16},
        "cluster": {"gpus_per_node": 2, "cost_per_gpu_hour": 2.5, "currency": "EUR"},
    }  # fmt: skip
    (folder / "slurm" / "job.json").write_text(json.dumps(job))
    lines(
        folder / "slurm" / "incarnations.jsonl",
        {"kind": "begin", "incarnation": f"7.0.{EPOCH + 600}", "time": at(610), "nodes": "n[1-2]"},
        {"kind": "end", "incarnation": f"7.0.{EPOCH + 600}", "time": at(600 + HOUR), "decision": "requeue"},
        {"kind": "begin", "incarnation": f"7.1.{EPOCH + 1200 + HOUR}", "time": at(1203 + HOUR), "nodes": "n2"},
        {"kind": "end", "incarnation": f"7.1.{EPOCH + 1200 + HOUR}", "time": at(3000 + HOUR), "decision": "done"},
    )
    return folder


def test_the_own_records_of_a_run_are_enough(run: Path) -> None:
    (found,) = accounts([run], now=EPOCH + 9 * HOUR)
    assert (found.source, found.starts, found.hours, found.useful) == ("records", 2, 1.5, 0.0)
    assert (found.gpu_hours, found.node_hours, found.cpu_hours) == (4 + 1, 2 + 0.5, 16 + 4)
    assert found.queue_hours == pytest.approx((600 + 600) / HOUR)
    assert (found.cost, found.currency) == (12.5, "EUR")
    assert accounts([run], price=1.0)[0].cost == 5.0


def test_a_start_that_vanished_ends_with_its_last_line_and_one_that_runs_now(run: Path) -> None:
    history, name = run / "slurm" / "incarnations.jsonl", f"7.0.{EPOCH}"
    lines(history, {"kind": "begin", "incarnation": name, "time": at(5), "nodes": "n1"})
    job = {"nodes": 1, "ranks": 1, "cluster": {}}
    (running,) = of_records(run, job, "RUNNING", EPOCH + 100)
    assert running == Allocation(EPOCH, EPOCH + 100, 1, 0, 1)
    (run / "logs" / name).mkdir(parents=True)
    (run / "logs" / name / "rank_0.log").touch()
    os.utime(run / "logs" / name / "rank_0.log", (EPOCH + 50, EPOCH + 50))
    assert of_records(run, job, None, EPOCH + 100)[0].ended == EPOCH + 50


def test_time_spent_on_steps_that_were_lost_is_not_useful(run: Path) -> None:
    starts = of_records(run, json.loads((run / "slurm" / "job.json").read_text()), None, 0)
    trained = [
        Trained(EPOCH + 630, 1000, 4), Trained(EPOCH + 2000, 800, 0),  # restarted inside of its allocation
        Trained(EPOCH + 1230 + HOUR, 900, 0), Trained(EPOCH + 9 * HOUR, 5000, 0),  # the last by hand
    ]  # fmt: skip
    first, second = with_training(starts, trained)
    assert (first.useful_s, first.lost_steps, second.useful_s) == (1800, 4, 900)


def test_slurms_accounting_counts_every_start_and_all_kinds_of_nodes(run: Path, tools: Path) -> None:
    local = [f"2026-01-0{day}T00:00:00" for day in range(1, 7)]
    rows_of_sacct = [
        f"7+0|7|c-lm|{local[0]}|{local[0]}|{local[1]}|{local[2]}|2|16|billing=1,cpu=16,gres/gpu:a100=4,gres/gpu=4,node=2",
        f"7+1|8|c-lm|{local[0]}|{local[0]}|{local[1]}|{local[2]}|1|4|cpu=4,node=1",
        f"7+0|7|c-lm|{local[2]}|{local[3]}|{local[4]}|{local[5]}|2|16|gres/gpu=4",
        f"7+0|7|c-lm|{local[5]}|Unknown|Unknown|Unknown|0|0|",
        f"7|7|other-job|{local[0]}|{local[0]}|{local[1]}|{local[2]}|9|9|gres/gpu=99",
    ]
    program(tools, "sacct", "cat <<'EOF'\n" + "\n".join(rows_of_sacct) + "\nEOF")
    (found,) = accounts([run])
    assert (found.source, found.starts, found.gpu_hours) == ("sacct", 2, 2 * 24 * 4)
    assert (found.node_hours, found.cpu_hours, found.queue_hours) == (24 * 5, 24 * 36, 48)
    assert not of_accounting([], 0)


def test_the_sum_weighs_shares_by_what_was_held_and_adds_no_two_currencies(run: Path) -> None:
    one = accounts([run])[0]
    other = {"gpu_hours": 15.0, "useful": 0.8, "cost": 10.0, "source": "sacct"}
    from dataclasses import replace

    found = total(
        [replace(one, useful=0.4), replace(one, **other), replace(one, useful=None, gpu_hours=0.0, cost=None)]
    )
    assert (found.useful, found.cost, found.source) == (pytest.approx(0.7), 22.5, "records, sacct")
    assert total([one, replace(one, currency="USD")]).cost is None
    assert [row[0] for row in rows([one, one])] == ["lm", "lm", "sum"]


def test_the_command_prints_a_table_json_and_csv(run: Path) -> None:
    table = CliRunner().invoke(app, ["account", str(run)]).output
    assert "12.50 EUR" in table
    assert "the run's own records" in table
    told = json.loads(CliRunner().invoke(app, ["account", str(run), "--json"]).output)
    assert told["sum"]["gpu_hours"] == told["stages"][0]["gpu_hours"] == 5.0
    assert as_csv(accounts([run])) == CliRunner().invoke(app, ["account", str(run), "--csv"]).output
    assert isinstance(CliRunner().invoke(app, ["account", str(run), "--csv", "--json"]).exception, Exception)


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("n1", 1), ("n[1-3],m7", 4), ("n[01-12,20]", 13), ("r[1-2]n[1-4]", 8), ("a,b,c", 3)],
)
def test_nodes_are_counted_without_a_controller(text: str, count: int) -> None:
    assert count_nodes(text) == count
