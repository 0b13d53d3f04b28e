"""A scheduler that is not there, hangs, or fails in the middle: nothing is half done, and no healthy node is blamed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import planned, program

from megabiomed.config.cluster import load_cluster
from megabiomed.ground.errors import LaunchError
from megabiomed.launch import agent, records, scheduler
from megabiomed.launch.preflight_verdict import MET
from megabiomed.launch.stage import load_stages
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import describe, prepare, render, submit_all
from megabiomed.processes import slurm_commands


def test_a_command_that_hangs_is_an_error_that_callers_expect(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm_commands, "TIMEOUT_S", 0.2)
    for name in ("scontrol", "sbatch"):
        program(tools, name, "exec sleep 60")
    (tools / "job.sh").touch()
    with pytest.raises(LaunchError, match="scontrol did not answer: got nothing in 0 s"):
        scheduler.job("7")
    with pytest.raises(LaunchError, match="sbatch did not answer"):
        scheduler.check_script(tools / "job.sh")
    monkeypatch.setenv("PATH", str(tools.parent / "nothing"))
    with pytest.raises(LaunchError, match="sbatch cannot be started"):
        scheduler.check_script(tools / "job.sh")


def test_a_controller_that_hangs_at_the_end_of_an_incarnation_does_not_keep_the_decision_from_being_made(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_commands, "TIMEOUT_S", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    program(tools, "scontrol", "exec sleep 60")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text(json.dumps({"kind": "pretrain", "max_failures": 3, "ranks": 2}))
    records.append(tmp_path, "begin", None, incarnation="7.0.1", step=0)
    agent._job.cache_clear()
    assert agent.end(tmp_path, "7.0.1", 137, warned=False).verb == "requeue"
    agent._job.cache_clear()
    (last,) = (record for record in records.history(tmp_path) if record["kind"] == "end")
    assert last["reason"] == "failure 1 of 3 without progress, exit code 137, step 0"


def test_on_a_full_disk_a_start_gives_up_and_an_end_is_decided_all_the_same(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of incarnations is the device that is always full."""
    monkeypatch.setattr(records, "now", lambda: "2026-11-27T12:00:00+00:00")  # a start of no length hardly trained
    queue()
    run = tmp_path / "run"
    submit_all([planned(run_file, run)])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    agent._job.cache_clear()
    records.append(run, "begin", None, incarnation="7.0.1", step=0)
    (run / "slurm" / "verdicts" / "7.0.1.json").write_text('{"outcome": "stopped"}')
    found = records.history(run)
    monkeypatch.setattr(records, "history", lambda run: found)
    (run / "slurm" / "incarnations.jsonl").unlink()
    (run / "slurm" / "incarnations.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # which devices have not
    (tmp_path / "queue" / "7").write_text(f"RUNNING|{run}/slurm/job.sh\n")
    agent.main(["end", str(run), "7.0.1", "0", "no"])
    agent.main(["begin", str(run), "7.1.2"])
    agent._job.cache_clear()
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "requeue||stopped and saved",
        f"fail|1|{run} cannot be written (No space left on device): make room, then megabiomed resubmit {run}",
    ]
    assert "not noted: [Errno 28]" in said.err


def test_a_job_that_was_held_for_its_nodes_is_let_go_though_the_answer_was_lost(
    run_file: Path, tools: Path, tmp_path: Path
) -> None:
    """The function of the script in bash; scontrol holds the job, and says that nobody answered."""
    asked = tmp_path / "asked"
    program(
        tools,
        "scontrol",
        f"""echo "$*" >> {asked}
    case "$*" in
        *"show job"*) state=" JobState=RUNNING Restarts=0 "
            grep -q requeuehold {asked} && state=" JobState=PENDING Restarts=1 "; echo "$state" ;;
        requeuehold*) exit 1 ;;
    esac""",
    )
    text = planned(run_file, tmp_path / "run").script
    functions = "\n".join(re.findall(r"^\w+\(\) \{(?:.*\}|\n(?:.*\n)*?\})$", text, flags=re.MULTILINE))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7"}
    script = f"incarnation=x; {functions}\nrequeue 'bad nodes' n2"
    done = subprocess.run(["bash", "-uc", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in asked.read_text().splitlines() if "show" not in line] == [
        "requeuehold 7",
        "update jobid=7 excnodelist=n2",
        "release 7",
    ]


def test_the_operators_own_exclusions_hold_when_the_controller_is_away(
    run_file: Path, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(run_file, tmp_path / "run", exclude="n8,n9")
    assert describe(planned(run_file, tmp_path, exclude="/etc/bad"), [])["exclude"] is None
    prepare(job, [])
    program(tools, "scontrol", '[ "$2" = hostnames ] || { echo down >&2; exit 1; }; tr , "\\n" <<< "$3"')
    monkeypatch.setenv(agent.NODES, "n1,n2")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (job.stage.folder / "slurm" / "preflight" / "7.0.1").mkdir(parents=True)
    well = {"problems": [], "group": 0, "measured": {}, "meeting": MET}
    (job.stage.folder / "slurm" / "preflight" / "7.0.1" / "n1.json").write_text(json.dumps(well))
    agent._job.cache_clear()
    assert agent.judge(job.stage.folder, "7.0.1").exclude == ("n2", "n8", "n9")
    agent._job.cache_clear()


@pytest.mark.parametrize("storage", [True, False], ids=["storage", "no storage"])
def test_nodes_without_an_agent_are_left_three_times_whatever_else_is_excluded(
    run_file: Path, tools: Path, tmp_path: Path, storage: bool
) -> None:
    """The script in bash, on nodes n1 to n4 one after the other, with a stand-in for scontrol that keeps the list."""
    job = planned(run_file, tmp_path / "run", exclude="n6,n7,n8,n9")
    if storage:
        prepare(job, [])
        (job.stage.folder / "slurm" / "no_agent").write_text("6 n1\n" * 9)  # of an earlier submission
    excluded = tmp_path / "excluded"
    excluded.write_text("n6,n7,n8,n9")
    program(
        tools,
        "scontrol",
        f"""case "$*" in
        "show hostnames"*) tr , "\\n" <<< "$3" ;;
        *"show job"*) echo " JobState=RUNNING Restarts=0 "; echo "   ExcNodeList=$(cat {excluded})" ;;
        update*) echo "${{@: -1}}" | cut -d= -f2 > {excluded} ;;
    esac""",
    )
    script = re.sub(r"^agent\(\) .*$", "agent() { :; }", job.script, flags=re.MULTILINE)
    said = []
    for node in ("n1", "n2", "n3", "n4"):
        environment = {
            "PATH": os.environ["PATH"],
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": node,
            "SLURM_JOB_NODELIST": "",
        }
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        said.append((done.returncode, done.stdout.split("] ", 1)[1].strip()))
    wanted = [(0, f"requeue: no answer from the agent on {node}") for node in ("n1", "n2", "n3")]
    last = "no answer from the agent on n4, after three other nodes"
    assert said == [*wanted, (1, f"give up: {last}")]
    if storage:
        assert [record["exclude"] for record in records.history(job.stage.folder)] == [["n1"], ["n2"], ["n3"], []]
        assert status_of(job.stage.folder)["last"] == last
    assert excluded.read_text().strip() == "n6,n7,n8,n9,n1,n2,n3"


def test_a_preflight_that_hangs_ends_long_before_the_job(run_file: Path, tmp_path: Path) -> None:
    for time, most, limit in [("24:00:00", 15, 15), ("10", 15, 10), ("10", 3, 3)]:
        changes = {"preflight": True, "time": time, "preflight_minutes": most}
        cluster = load_cluster("cpu-test").model_copy(update=changes)
        (stage,) = load_stages(str(run_file), cluster, [f"run_dir={tmp_path}/r"], 2)
        assert f" --time={limit} --wait=300 " in render(stage).script
