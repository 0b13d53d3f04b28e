"""The batch script of a start that has lost its run wakes up: it writes nothing, says so, and nobody believes its lines."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.scheduling import program

from megabiomed.checkpoint.fence import Fence
from megabiomed.ground.errors import CorruptionError
from megabiomed.ground.node import node_name
from megabiomed.launch import agent, records
from megabiomed.launch.control import resubmit
from megabiomed.launch.decision import SUPERSEDED, Decision
from megabiomed.launch.status import status_of
from megabiomed.launch.successor import TAKEN_OVER, dependents
from megabiomed.processes import gpu_health, ranks
from megabiomed.processes.gpu_tools import Finding
from megabiomed.processes.ranks import VERDICT

Call = Callable[[Path], object]
JOB = {
    "kind": records.COMMAND, "max_failures": 3, "ranks": 2, "job_id": "7", "controls": [], "slow_factor": 2.0, "stage": "s",
    "after": [], "members": [], "chain": "c",
}  # fmt: skip
NOBODY = Decision("fail", "a start without a job took the run over", code=SUPERSEDED)
TAKERS: dict[str, tuple[Call, Decision]] = {
    "the restarted job": (lambda run: Fence.claim(run, "7.1"), TAKEN_OVER),
    "another job": (lambda run: Fence.claim(run, "8.0"), Decision("fail", "job 8 took the run over", code=SUPERSEDED)),
    "a new submission": (records.renew, NOBODY),
    "a start by hand": (lambda run: Fence.claim(run, "host.99"), NOBODY),
}
WRITERS: dict[str, Call] = {
    "judge": lambda run: agent.judge(run, "7.0.1"),
    "end of a command": lambda run: agent.end(run, "7.0.1", 0, warned=False),
    "end by a failure": lambda run: agent.end(run, "7.0.1", 1, warned=False),
}


@pytest.fixture
def run(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A submitted run that job 7 has begun."""
    folder = tmp_path / "run"
    (folder / records.SLURM).mkdir(parents=True)
    (folder / records.SLURM / records.JOB).write_text(json.dumps(JOB))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(agent.NODES, "n1")
    answer(tools, "0")
    assert agent.begin(folder, "7.0.1").verb == "run"
    yield folder
    agent._job.cache_clear()


def answer(tools: Path, restarts: str, state: str = "RUNNING") -> None:
    """What the scheduler says of every job from now on."""
    agent._job.cache_clear()
    program(
        tools, "scontrol", f'[ "$2" = hostnames ] && echo n1 || echo "JobId=7 JobState={state} Restarts={restarts} Command=x"'
    )  # fmt: skip


def content(run: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize(("taker", "follows"), TAKERS.values(), ids=TAKERS)
def test_a_start_that_lost_its_run_writes_nothing_and_fails_where_another_job_has_it(
    run: Path, tools: Path, taker: Call, follows: Decision, writer: Call
) -> None:
    """Only a later start of the same job stands for it; dependents of a job that succeeds would begin."""
    program(tools, "squeue", "true")
    taker(run)
    before = content(run)
    assert writer(run) == follows
    assert content(run) == before


def test_what_waits_for_a_job_that_lost_its_run_waits_for_the_other_job(run: Path, tools: Path, tmp_path: Path) -> None:
    waiting = [
        "8|(null)",
        "77|afterok:7(unfulfilled)",
        "78|afterok:6(unfulfilled),afterok:7+0(unfulfilled)",
        "79|afterok:70",
    ]
    program(tools, "squeue", "\n".join(f"echo '{line}'" for line in waiting))
    program(tools, "scontrol", f'echo "$@" >> {tmp_path}/asked')
    Fence.claim(run, "8.0")
    assert agent.end(run, "7.0.1", 1, warned=False).reason == (
        "job 8 took the run over; waiting for that now: job 77, 78"
    )
    assert (tmp_path / "asked").read_text().splitlines() == [
        "update jobid=77 dependency=afterok:8",
        "update jobid=78 dependency=afterok:6,afterok:8",
    ]
    assert dependents("5|afterok:7?afterany:7(unfulfilled)", "7", "8") == {"5": "afterok:8?afterany:8"}
    assert dependents("5|afterok:17(unfulfilled),afterok:7_3,afterok:71", "7", "8") == {}


@pytest.mark.parametrize(
    ("error", "verb"), [(errno.ENOSPC, "fail"), (errno.EACCES, "fail"), (errno.EROFS, "fail"), (errno.EIO, "leave")]
)
def test_a_run_folder_that_cannot_be_written_is_no_fault_of_the_node_unless_its_storage_fails_there(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: int, verb: str
) -> None:
    def refuse(*words: object, **values: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(records, "append", refuse)
    agent.main(["begin", str(run), "7.0.1"])
    found = capsys.readouterr().out
    assert found.startswith(f"{verb}|")
    assert str(run) in found
    assert os.strerror(error) in found


def test_a_start_that_lost_its_run_between_two_lines_adds_no_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fence = Fence.inherit(run, "7.0")
    assert fence is not None
    Fence.claim(run, "7.1")
    before = content(run)
    assert not records.note_event(run, "finished", fence)
    assert not records.append(run, "end", fence, incarnation="7.0.1")
    assert content(run) == before
    assert capsys.readouterr().err.count("not noted, a later start took over") == 2


@pytest.mark.parametrize("known_by", ["the scheduler", "the state of the job", "the fence alone"])
def test_a_script_that_slept_before_its_begin_does_not_take_the_run_back(run: Path, tools: Path, known_by: str) -> None:
    if known_by == "the scheduler":
        answer(tools, "1")
    elif known_by == "the state of the job":
        answer(tools, "0", "NODE_FAIL")
    else:
        program(tools, "scontrol", "echo Unable to contact slurm controller >&2; exit 1")
        Fence.claim(run, "7.1")
    before = content(run)
    assert agent.begin(run, "7.0.9") == Decision("done", "a later start took over")
    assert content(run) == before


def test_a_second_job_of_a_run_notes_nothing_in_it(run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tools, "scontrol", f'echo "JobId=7 JobState=RUNNING Command={run}/slurm/job.sh"')
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    before = content(run)
    assert agent.begin(run, "8.0.1") == Decision("fail", "job 7 is the job of this run")
    assert content(run) == before


def test_lines_of_a_start_that_froze_between_its_check_and_its_write_are_read_by_nobody(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(tools, "1")
    later = agent.begin(run, "7.1.2")
    early = Fence(run, "7.0-x", 1)
    monkeypatch.setattr(Fence, "taken_over", lambda fence: False)
    mine = Fence.inherit(run, "7.1")
    assert records.note_event(run, "start", mine)
    assert records.note_event(run, "finished", early)
    assert records.append(run, "end", early, incarnation="7.0.1", reason="failure 3 of 3", after=0)
    assert later.verb == "run"
    assert records.last_event(run)["event"] == "start"
    assert [record["kind"] for record in records.history(run)] == ["begin", "begin"]
    assert status_of(run)["state"] != "FINISHED"
    assert status_of(run)["endings"] == []
    assert list(resubmit(run, "this", dry_run=True)) == [f"would submit: s: {run}/slurm/job.sh"]


def test_the_owner_still_writes_all_of_it(run: Path) -> None:
    assert agent.judge(run, "7.0.1").verb in ("run", "requeue", "fail")
    assert agent.end(run, "7.0.1", 0, warned=False) == Decision("done", "finished")
    assert [record["kind"] for record in records.history(run)] == ["begin", "preflight", "end"]
    assert records.last_event(run)["event"] == "finished"
    records.renew(run)
    assert records.last_event(run)["event"] == "reopened"


def test_a_node_that_the_ranks_found_bad_is_left_out_of_the_next_start(
    run: Path, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = run / records.SLURM / records.VERDICTS / "7.0.1.json"
    monkeypatch.setenv(VERDICT, str(verdict))
    monkeypatch.setenv("SLURMD_NODENAME", "n2")
    monkeypatch.setenv(agent.NODES, "n[1-2]")
    program(
        tools, "scontrol", '[ "$2" = hostnames ] && tr , "\\n" <<< "${3/n\\[1-2\\]/n1,n2}" || '
        'echo "JobId=7 JobState=RUNNING Restarts=0 Command=x ExcNodeList=n9"'
    )  # fmt: skip
    agent._job.cache_clear()
    error = CorruptionError("state after step 4 is damaged", got="norm.weight on rank 1 (n2)")
    error.nodes = (node_name(),)
    ranks._accuse(error)
    decision = agent.end(run, "7.0.1", 1, warned=False)
    assert (decision.verb, decision.exclude) == ("requeue", ("n2", "n9"))
    assert "bad nodes: n2: corruption: norm.weight on rank 1 (n2)" in decision.reason
    assert records.history(run)[-1]["exclude"] == ["n2"]


@pytest.mark.parametrize("outcome", ["", "stopped"])
def test_a_node_whose_gpu_broke_during_the_run_is_avoided_and_drained_on_request(
    run: Path,
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: str,
) -> None:
    program(
        tools, "scontrol",
        f'''[ "$1" = update ] && {{ printf "%s|" "$@" > {tmp_path}/drained; echo no permission >&2; exit 1; }}
        [ "$2" = hostnames ] && printf "n1\\nn2\\n" || echo "JobId=7 JobState=RUNNING Restarts=0 Command=x"''',
    )  # fmt: skip
    program(tools, "sinfo", "printf 'n1\\nn2\\nn3\\n'")
    drain = ["scontrol", "update", "NodeName={node}", "State=DRAIN", "Reason={reason}"]
    (run / records.SLURM / records.JOB).write_text(
        json.dumps(JOB | {"kind": "pretrain", "cluster": {"drain_command": drain}})
    )
    (run / records.SLURM / records.VERDICTS / "7.0.1.json").write_text(json.dumps({"outcome": outcome}))
    logs = run / "logs" / "7.0.1" / gpu_health.FOLDER
    gpu_health.write(
        logs, "n2", [Finding(3, "xid 79", "Xid 79: off the bus", True), Finding(1, "nvlink", "errors", False)]
    )
    gpu_health.write(logs, "n1", [Finding(0, "throttled", "hot", False)])
    agent._job.cache_clear()
    decision = agent.end(run, "7.0.1", 0 if outcome else 1, warned=False)
    assert (decision.verb, decision.exclude) == ("requeue", ("n2",))
    assert decision.reason.endswith("bad nodes: n2: GPU 3: Xid 79: off the bus")
    assert records.history(run)[-1]["exclude"] == ["n2"]
    words = (tmp_path / "drained").read_text().split("|")
    assert words[1:4] == ["NodeName=n2", "State=DRAIN", "Reason=megabiomed run: GPU 3: Xid 79: off the bus"]
    assert "drain n2: exit code 1: no permission" in capsys.readouterr().err
