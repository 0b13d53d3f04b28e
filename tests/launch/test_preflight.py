"""What a node measures and who of several nodes is bad."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megabiomed.launch import preflight
from megabiomed.launch.preflight_verdict import MET, bad_nodes, pairings, result_file, smi_problems
from megabiomed.processes.rendezvous import MEETING


def answers(run: Path, measured: dict[str, dict[str, float]], group: int = 0, meeting: str | None = MET) -> None:
    for node, values in measured.items():
        file = result_file(run, "7.0.1", node)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"problems": [], "group": group, "measured": values, "meeting": meeting}))


def test_a_slow_and_a_silent_node_are_named(tmp_path: Path) -> None:
    answers(tmp_path, {f"n{n}": {"matmul_s": s} for n, s in enumerate([1.0, 1.1, 1.0, 2.0], 1)})
    found = bad_nodes(tmp_path, "7.0.1", ["n1", "n2", "n3", "n4", "n5"], 1.5)
    assert found == {"n4": "slow matrix product: 2.0000 s, usual 1.0000 s", "n5": "no answer"}


def test_the_slower_of_two_nodes_a_slow_link_and_a_wrong_clock_are_named(tmp_path: Path) -> None:
    answers(tmp_path, {"a": {"matmul_s": 1.0}, "b": {"matmul_s": 2.9}})
    assert bad_nodes(tmp_path, "7.0.1", ["a", "b"], 1.5) == {}  # nobody knows which of the two is usual
    answers(tmp_path, {"a": {"matmul_s": 1.0}, "b": {"matmul_s": 3.1}})
    assert list(bad_nodes(tmp_path, "7.0.1", ["a", "b"], 1.5)) == ["b"]
    times = {
        "c": {"link_s": 0.1, "clock_s": 1000},
        "d": {"link_s": 0.9, "clock_s": 1001},
        "e": {"link_s": 0.1, "clock_s": 900},
    }
    answers(tmp_path, times)
    assert bad_nodes(tmp_path, "7.0.1", ["e", "c"], 1.5) == {"c": "its clock is +100 s off"}  # from the head node's
    found = bad_nodes(tmp_path, "7.0.1", ["c", "d", "e"], 1.5)
    assert found == {"d": "slow exchange with its neighbours: 0.9000 s, usual 0.1000 s", "e": "its clock is -100 s off"}


def test_nobody_is_blamed_for_a_node_that_did_not_come(tmp_path: Path) -> None:
    answers(tmp_path, {"a": {"matmul_s": 1.0}, "b": {"matmul_s": 1.0}}, meeting=None)
    assert bad_nodes(tmp_path, "7.0.1", ["a", "b", "c"], 1.5) == {"c": "no answer"}
    answers(tmp_path, {"c": {"matmul_s": 1.0}}, meeting="DistNetworkError: timed out")
    found = bad_nodes(tmp_path, "7.0.1", ["a", "b", "c"], 1.5)
    assert found["c"] == "could not meet the others: DistNetworkError: timed out"
    assert len(found) == 3


def test_a_node_that_hangs_in_a_check_is_named_and_not_those_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(tmp_path, {"a": {"matmul_s": 1.0}}, meeting="nobody within 240 s")
    (tmp_path / "slurm" / "job.json").write_text("{}")
    monkeypatch.setenv("SLURMD_NODENAME", "b")

    def killed(gpus: int, gpu_type: str) -> list[str]:
        raise SystemExit  # by the scheduler, in the middle

    monkeypatch.setattr(preflight, "_devices", killed)
    with pytest.raises(SystemExit):
        preflight.main(tmp_path, "7.0.1", 0, 8, "h100")
    assert bad_nodes(tmp_path, "7.0.1", ["a", "b"], 1.5) == {"b": "hung in its check of devices"}


def test_a_node_that_runs_other_code_than_was_submitted_is_named(tmp_path: Path) -> None:
    (tmp_path / "slurm" / "code").mkdir(parents=True)
    job = tmp_path / "slurm" / "job.json"
    job.write_text('{"cluster": {"snapshot": false}}')
    assert preflight._code(tmp_path) == []
    job.write_text('{"cluster": {"snapshot": true}}')
    (problem,) = preflight._code(tmp_path)
    assert re.fullmatch(
        r"runs .*megabiomed and not the copy in .*slurm/code: what replaces PYTHONPATH there\?", problem
    )


def test_nodes_of_different_kinds_are_not_compared(tmp_path: Path) -> None:
    answers(tmp_path, {"a": {"matmul_s": 1.0}, "b": {"matmul_s": 1.0}})
    answers(tmp_path, {"c": {"matmul_s": 9.0}}, group=1)
    assert bad_nodes(tmp_path, "7.0.1", ["a", "b", "c"], 1.5) == {}


def test_a_node_that_is_slow_for_a_moment_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of all rounds of both measurements counts."""
    monkeypatch.setattr(preflight, "_LEAST_S", 0.0)
    monkeypatch.setattr(preflight, "_ROUNDS", 3)
    seconds = iter([0.03, 0.02, 0.03, 0.03, 0.006, 0.03, 0.1, 0.1, 0.1])
    monkeypatch.setattr(preflight, "seconds_of_work", lambda work: next(seconds))
    measured: dict[str, float] = {}
    found = []
    for _ in range(3):
        assert preflight._work(measured) == []
        found.append(measured["matmul_s"])
    assert found == [0.02, 0.006, 0.006]


def test_a_node_without_a_result_is_named_with_the_last_words_of_its_check(tmp_path: Path) -> None:
    answers(tmp_path, {"a": {"matmul_s": 1.0}, "c": {"matmul_s": 1.0}})
    nodes, logs = ["a", "b", "c"], tmp_path / "logs" / "7.0.1"
    logs.mkdir(parents=True)
    for task, text in enumerate(["", "bwrap: Can't find source path /data: No such file or directory\n"]):
        (logs / f"preflight_0.{task}.log").write_text(text)
    assert bad_nodes(tmp_path, "7.0.1", nodes, 1.5) == {
        "b": "no answer"
    }  # a log is missing: nobody knows whose these are
    (logs / "preflight_1.0.log").touch()
    found = bad_nodes(tmp_path, "7.0.1", nodes, 1.5)
    assert found == {"b": "no answer: bwrap: Can't find source path /data: No such file or directory"}


def test_a_run_folder_that_is_not_visible_is_said_and_not_made(tmp_path: Path) -> None:
    run = tmp_path / "nowhere"
    with pytest.raises(
        SystemExit, match=f"the run folder {run} is not visible; mount it, in a container at the same path"
    ):
        preflight.main(run, "7.0.1", 0, 0, "-")
    assert not run.exists()


@pytest.mark.parametrize("world", [2, 3, 4, 5, 8])
def test_every_node_meets_two_neighbours_and_nobody_meets_two_at_once(world: int) -> None:
    rounds = pairings(world)
    for pairs in rounds:
        met = [rank for pair in pairs for rank in pair]
        assert len(met) == len(set(met))
    peers = [sum(rank in pair for pairs in rounds for pair in pairs) for rank in range(world)]
    assert peers == [min(2, world - 1)] * world


def test_ecc_errors_and_slow_clocks_of_gpus_are_read_from_nvidia_smi() -> None:
    said = "0, 0, Not Active, Not Active\n1, 3, Not Active, Not Active\n2, [N/A], Active, Not Active\n"
    assert smi_problems(said) == ["GPU 1: uncorrected ECC errors (3)", "GPU 2: clock slowed down by the hardware"]


@pytest.mark.timeout(290)
def test_three_nodes_measure_themselves_and_find_missing_gpus(tmp_path: Path) -> None:
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text("{}")
    command = [sys.executable, "-m", "megabiomed.launch.preflight", str(tmp_path), "7.0.1", "0"]
    meet = {"MASTER_ADDR": "127.0.0.1", MEETING: str(tmp_path / "meeting"), "WORLD_SIZE": "3"}
    shared = {**os.environ, **meet, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [*command, "8" if rank == 2 else "0", "-"],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": "0", "SLURMD_NODENAME": f"n{rank}"},
        )
        for rank in range(3)
    ]
    assert [rank.wait(260) for rank in ranks] == [0, 0, 0]
    names = ["n0", "n1", "n2"]
    for name in names:
        measured = json.loads(result_file(tmp_path, "7.0.1", name).read_text())["measured"]
        assert set(measured) == {"matmul_s", "allreduce_s", "link_s", "clock_s"}
    assert bad_nodes(tmp_path, "7.0.1", names, 1e9) == {"n2": "0 of 8 GPUs are visible"}
