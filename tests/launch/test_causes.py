"""A start failed: which task was the first, on which node, and what it said itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.scheduling import program

from megabiomed.ground.errors import LaunchError
from megabiomed.ground.files import read_json, write_json
from megabiomed.ground.storage import Room
from megabiomed.launch import agent, records
from megabiomed.launch.causes import Failure, first_failure
from megabiomed.launch.follow import failed_log
from megabiomed.launch.last_words import last_error
from megabiomed.launch.room import lacking

START = "7.0.1"
LOST = "the connection to another rank was lost, and its log says why: got Connection reset by peer"
TRACE = "Traceback (most recent call last):\n  File x\nValueError: shapes differ\n\nerror: this is a defect of megabiomed, not"
FULL = "no room for a checkpoint: got 1 MiB; free space"
ONE = "Exited with exit code 1"
TWO = "Exited with exit code 2"
NOTHING_THERE = "slurmstepd-n2: error: execve(): /opt/python: No such file or directory"
ENDED = "slurmstepd: error: *** STEP 7.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***"


def failed(run: Path, srun: str, **logs: str) -> Path:
    """A run whose first start failed with these lines of srun, and logs of its ranks."""
    (run / "slurm").mkdir(parents=True, exist_ok=True)
    folder = run / "logs" / START
    folder.mkdir(parents=True, exist_ok=True)
    told = "\n".join(f"srun: error: {line}" for line in srun.split("; ") if line)
    (run / "slurm" / "job.log").write_text(
        f"2026-01-01T00:00:00+00:00 [6.0.1] nodes: n9\nsrun: error: n9: task 9: Killed\n"
        f"2026-01-01T00:00:09+00:00 [{START}] nodes: n[1-2]\nsrun: error: n1: task 0: Terminated\n"
        f"2026-01-01T00:00:10+00:00 [{START}] starting the ranks\n{told}\nsrun: Force Terminated StepId=7.0\n"
        f"2026-01-01T00:01:00+00:00 [{START}] requeue: x\n"
        "2026-01-01T00:02:00+00:00 [7.1.2] nodes: n3\nsrun: error: n3: task 3: Aborted\n"
    )
    for name, text in logs.items():
        (folder / f"{name}.log").write_text(f"step 1\nstep 2\n{text}\n")
    return run


@pytest.mark.parametrize(
    ("srun", "logs", "rank", "node", "how", "error", "suspect"),
    [
        ("n2: task 2: Killed; n2: task 3: Terminated; n1: tasks 0-1: Terminated", {}, 2, "n2", "Killed (SIGKILL)", None, "n2"),
        ("n1: task 0: Exited with exit code 1; n2: task 2: Killed", {"rank_0": LOST}, 2, "n2", "Killed (SIGKILL)", None, "n2"),
        (
            "n1: tasks 0-1: Exited with exit code 1; n2: task 3: Exited with exit code 137",
            {"rank_0": LOST, "rank_1": LOST}, 3, "n2", "Exited with exit code 137 (SIGKILL)", None, "n2",
        ),
        (
            "n2: task 3: Segmentation fault (core dumped)", {"rank_3": "CUDA error: misaligned address"},
            3, "n2", "Segmentation fault (core dumped) (SIGSEGV)", "CUDA error: misaligned address", "n2",
        ),
        ("n2: task 3: Out Of Memory", {}, 3, "n2", "Out Of Memory (SIGKILL, out of memory)", None, "n2"),
        # An exception follows the program to any node.
        (f"n1: tasks 0-1: {ONE}", {"rank_0": LOST, "rank_1": TRACE}, 1, "n1", ONE, "ValueError: shapes differ", None),
        (f"n1: task 0: {ONE}", {"rank_0": FULL}, 0, "n1", ONE, FULL, None),
        (f"n2: task 1: {TWO}; n1: task 0: Terminated", {"rank_1": NOTHING_THERE}, 1, "n2", TWO, NOTHING_THERE, "n2"),
        # A program that is nowhere is not the fault of the node that was heard first.
        (
            f"n2: task 1: {TWO}; n1: task 0: {TWO}", {"rank_0": NOTHING_THERE, "rank_1": NOTHING_THERE},
            1, "n2", TWO, NOTHING_THERE, None,
        ),
        ("Node failure on n2; n1: task 0: Terminated", {}, None, "n2", "the node failed", None, "n2"),
        ("Task launch for StepId=7.0 failed on node n2: Communication lost", {}, None, "n2", "Communication lost", None, "n2"),
        # All of them were ended from outside: the first is named for want of another.
        ("n1: tasks 0-1: Terminated", {"rank_0": ENDED}, 0, "n1", "Terminated (SIGTERM)", None, None),
        # srun was killed with the script before it said anything.
        ("", {"rank_0": LOST, "rank_1": TRACE}, 1, None, "its log ends in an error", "ValueError: shapes differ", None),
    ],
)  # fmt: skip
def test_the_first_task_that_failed_by_itself_is_named(
    tmp_path: Path,
    srun: str,
    logs: dict[str, str],
    rank: int,
    node: str,
    how: str,
    error: str | None,
    suspect: str | None,
) -> None:
    found = first_failure(failed(tmp_path, srun, **logs), START)
    assert found is not None
    assert (found.rank, found.node, found.how, found.error, found.suspect) == (rank, node, how, error, suspect)


@pytest.mark.parametrize(
    "srun", ["", "unable to create step", "n1: task x: Killed", "n1: tasks 5-: ", "\x00\ufffd[7.0.1]"]
)
def test_lines_in_a_format_of_another_version_name_nobody(tmp_path: Path, srun: str) -> None:
    found = first_failure(failed(tmp_path, srun, rank_0="step 3"), START)
    assert found is None or found.rank == 5
    assert first_failure(tmp_path / "nothing", START) is None


def test_the_last_error_is_found_between_other_words() -> None:
    after = (
        "[rank3]:[W101 ProcessGroup.cpp:1] Warning: destroy_process_group() was not called\n  warnings.warn(x)\n"
        + ENDED
    )
    assert last_error(f"loss 2.0\rloss 1.9\n{TRACE}\n{after}", by_itself=True) == "ValueError: shapes differ"
    assert last_error(f"loss 2.0\nthe tokenizer is missing: got x\n{after}", True) == "the tokenizer is missing: got x"
    assert last_error("step 1\nstep 2\n", by_itself=False) is None
    assert last_error("", by_itself=True) is None
    assert len(last_error(f"OSError: {'x' * 9999}", by_itself=False) or "") == 300


@pytest.fixture
def begun(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two nodes in its first start."""
    run = tmp_path / "run"
    (run / "slurm").mkdir(parents=True)
    job = {
        "kind": "pretrain",
        "max_failures": 3,
        "ranks": 4,
        "job_id": "7",
        "controls": [],
        "stage": "s",
        "exclude": "n9",
    }
    (run / "slurm" / "job.json").write_text(json.dumps(job))
    (run / "slurm" / "job.sh").touch()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(agent.NODES, "n[1-2]")
    program(
        tools, "scontrol",
        '[ "$2" = hostnames ] && { [ "$3" = "n[1-2]" ] && printf "n1\\nn2\\n" || echo "$3"; exit; }\n'
        'echo "JobId=7 JobState=RUNNING Restarts=0 Partition=main Command=x"',
    )  # fmt: skip
    program(tools, "sinfo", 'for n in 1 2 3 4; do echo "n$n|idle"; done')
    program(tools, "sbatch", "exit 0")
    yield run
    agent._job.cache_clear()


def ends(run: Path, srun: str, code: int = 143, **logs: str) -> agent.Decision:
    agent._job.cache_clear()
    assert agent.begin(run, START).verb == "run"
    return agent.end(failed(run, srun, **logs), START, code, warned=False)


def test_the_reason_of_a_decision_names_it_and_a_node_that_fails_twice_in_a_row_is_avoided(begun: Path) -> None:
    first = ends(begun, "n2: task 2: Killed; n1: tasks 0-1: Terminated")
    assert first.line() == (
        "requeue||failure 1 of 3 without progress, exit code 143, step 0: rank 2 on n2 failed first: Killed (SIGKILL)"
    )
    second = ends(begun, "n2: task 3: Killed")
    assert second.line().startswith("requeue|n2,n9|failure 2 of 3")
    assert second.reason.endswith("; n2 failed twice in a row and is avoided")
    record = records.history(begun)[-1]
    assert (record["exclude"], record["first_failure"]["rank"], record["first_failure"]["node"]) == (["n2"], 3, "n2")
    assert agent.begin(begun, START).verb == "run"
    assert ends(begun, "n3: task 3: Exited with exit code 1", 1, rank_3=TRACE).reason == (
        "failure 3 of 3 without progress, exit code 1, step 0: "
        "rank 3 on n3 failed first: Exited with exit code 1; its last error: ValueError: shapes differ"
    )


@pytest.mark.parametrize(
    ("srun", "logs", "nodes"),
    [
        ("n1: task 0: Exited with exit code 1", {"rank_0": TRACE}, 4),
        ("n1: task 0: Killed; n2: task 2: Killed", {}, 4),
        ("n1: task 0: Killed", {}, 2),
    ],
    ids=["an exception of the program", "two nodes", "no node is left for it"],
)
def test_a_node_is_not_avoided_for_what_would_happen_elsewhere_or_where_none_is_left(
    begun: Path, tools: Path, srun: str, logs: dict[str, str], nodes: int
) -> None:
    program(tools, "sinfo", f'for n in $(seq {nodes}); do echo "n$n|idle"; done')
    found = [ends(begun, srun, 1, **logs) for _ in range(2)]
    assert [(decision.verb, decision.exclude) for decision in found] == [("requeue", ()), ("requeue", ())]


def test_a_missing_program_on_one_node_is_no_wrong_input(begun: Path) -> None:
    assert ends(begun, "n2: task 1: Exited with exit code 2", 2, rank_1=NOTHING_THERE).verb == "requeue"
    wrong = ends(begun, "n1: task 0: Exited with exit code 2", 2, rank_0="model.layers is missing: got 0; set it")
    assert (wrong.verb, wrong.code) == ("fail", 2)
    assert wrong.reason.endswith("its last error: model.layers is missing: got 0; set it")


def test_progress_begins_the_count_again_in_these_words(begun: Path) -> None:
    assert agent.begin(begun, START).verb == "run"
    (begun / "checkpoints/step_00000020").mkdir(parents=True)
    (begun / "checkpoints/step_00000020/COMMITTED").touch()
    found = agent.end(begun, START, 137, warned=False)
    assert found.reason == "failure 1 of 3 after 20 more saved steps, exit code 137, step 20"


def test_no_start_begins_without_room_for_its_next_checkpoint(begun: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, committed in ((10, True), (20, False)):
        folder = begun / f"checkpoints/step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(b"x" * 2**20)
        if committed:
            (folder / "COMMITTED").touch()
    free = [0]
    monkeypatch.setattr("megabiomed.launch.room.room", lambda path, quotas: Room(free[0], None))
    found = agent.begin(begun, START)
    said = f"{begun} has no room for a checkpoint: 1.0 MiB are free, one checkpoint takes 1.0 MiB: make room, then"
    assert found.line() == f"fail|1|{said} megabiomed resubmit {begun}"
    assert records.history(begun)[-1]["kind"] == "refused"
    free[0] = 2**20  # what was left of the save that was cut off is freed by the run
    assert lacking(begun) is None
    assert agent.begin(begun, START).verb == "run"


def test_no_start_begins_without_the_inodes_for_the_checkpoints_that_are_kept(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (begun / "slurm/config.yaml").write_text("checkpoint: {keep_last: 2}\n")
    write_json(begun / "slurm/job.json", read_json(begun / "slurm/job.json", dict) | {"ranks": 8})
    free = [83]
    monkeypatch.setattr(
        "megabiomed.launch.room.room", lambda path, quotas: Room(2**40, free[0], ", by the quota of user 7")
    )
    found = agent.begin(begun, START)
    assert found.verb == "fail"
    assert f"{begun} has no room for a checkpoint: 83 files (inodes) are free, by the quota of user 7, " in found.reason
    assert "3 checkpoints of 8 ranks (checkpoint.keep_last = 2) takes 84: make room, then" in found.reason
    free[0] = 84
    assert agent.begin(begun, START).verb == "run"


def test_the_log_of_the_first_failure_is_found_in_the_newest_start_that_failed(tmp_path: Path) -> None:
    run = failed(tmp_path / "run", "n2: task 2: Killed", rank_2="step 9")
    (run / "logs" / "7.2.3").mkdir()  # runs, or ended well
    said, file = failed_log(run)
    assert said.endswith(f"start 7.0.1: rank 2 on n2 failed first: Killed (SIGKILL)\n--- {run}/logs/7.0.1/rank_2.log")
    assert file == run / "logs/7.0.1/rank_2.log"
    (run / "slurm/job.log").unlink()
    with pytest.raises(LaunchError, match=r"no task of .*run failed: got 2 starts; megabiomed logs .* --job"):
        failed_log(run)


def test_what_failed_is_said_in_one_sentence() -> None:
    assert str(Failure(3, None, "Killed", "x")) == "rank 3 failed first: Killed; its last error: x"
    assert str(Failure(None, "n2", "the node failed")) == "a node on n2 failed first: the node failed"
