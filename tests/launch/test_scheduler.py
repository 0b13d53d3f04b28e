"""A scheduler that is not there, hangs, or fails in the middle: nothing is half done, and no healthy node is blamed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megabiomed.errors import LaunchError
from megabiomed.launch import agent, records, scheduler
from megabiomed.launch.cluster import load_cluster
from megabiomed.launch.control import cancel, resubmit
from megabiomed.launch.preflight_verdict import MET
from megabiomed.launch.stage import load_stages
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import Job, describe, prepare, render, submit_all


def program(folder: Path, name: str, body: str) -> None:
    """A stand-in for one of SLURM's commands."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins that come first in PATH."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def planned(run_file: Path, run: Path, **sbatch: str) -> Job:
    (stage,) = load_stages(str(run_file), load_cluster("cpu-test"), [f"run_dir={run}"], 1)
    return render(replace(stage, sbatch=sbatch))


def test_a_command_that_hangs_is_an_error_that_callers_expect(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_TIMEOUT_S", 0.2)
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
    monkeypatch.setattr(scheduler, "_TIMEOUT_S", 0.2)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    program(tools, "scontrol", "exec sleep 60")
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "job.json").write_text(json.dumps({"kind": "pretrain", "max_failures": 3, "ranks": 2}))
    records.append(tmp_path, "begin", incarnation="7.0.1", step=0)
    agent._job.cache_clear()
    assert agent.end(tmp_path, "7.0.1", 137, warned=False).verb == "requeue"
    agent._job.cache_clear()
    (last,) = (record for record in records.history(tmp_path) if record["kind"] == "end")
    assert last["reason"] == "failure 1 of 3 without progress, exit code 137, step 0"


def test_without_a_scheduler_nothing_of_a_run_is_touched(run_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    (run / "slurm").mkdir(parents=True)
    (run / "slurm" / "job.json").write_text('{"job_id": null}')
    words = ["submit", str(run_file), "--cluster", "cpu-test", f"run_dir={run}"]
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", *words],
        env=os.environ | {"PATH": str(Path(sys.executable).parent)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, "sbatch is not installed here" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in run.rglob("*")] == ["slurm", "job.json"]
    assert (run / "slurm" / "job.json").read_text() == '{"job_id": null}'


@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
def test_a_chain_is_taken_back_whatever_keeps_it_from_being_submitted_whole(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one, two, three = (planned(run_file, tmp_path / name) for name in ("one", "two", "three"))
    jobs = [replace(job, stage=replace(job.stage, name=name)) for name, job in zip("abc", (one, two, three))]
    ids = iter(["7", "8"])
    cancelled: list[tuple[str, ...]] = []

    def submit(script: Path, after: list[str]) -> str:
        for job_id in ids:
            return job_id
        raise error

    def call(*words: str, patient: bool = True) -> str:
        cancelled.append(words)
        raise LaunchError("scancel refused")  # the others are cancelled all the same

    queue = iter([{}, {}, {}, {"7": "PENDING"}, {"6": "COMPLETED", "8": "PENDING"}, {"9": "PENDING"}])
    stand_ins = {"need": str, "check_script": str, "submit": submit, "call": call}
    for name, stand_in in (stand_ins | {"jobs_of_script": lambda script: next(queue)}).items():
        monkeypatch.setattr(scheduler, name, stand_in)
    with pytest.raises(LaunchError if isinstance(error, OSError) else KeyboardInterrupt):
        submit_all(jobs)
    assert cancelled == [("scancel", number) for number in "789"]  # 9 was queued without an answer


def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_copy(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = queue(), tmp_path / "run"

    def full(source: Path, target: Path, **options: Any) -> None:
        target.mkdir(parents=True)
        raise shutil.Error([(f"{n}", f"{target}/{n}", "[Errno 28] No space left on device") for n in range(300)])

    monkeypatch.setattr("megabiomed.launch.snapshot.shutil.copytree", full)
    with pytest.raises(LaunchError, match=r"run folder cannot be written: got \[Errno 28\] No space left on device$"):
        submit_all([planned(run_file, run)])
    assert sorted(file.name for file in (run / "slurm").iterdir()) == ["config.yaml", "submit.lock", "verdicts"]
    assert list(base.iterdir()) == []


def test_on_a_full_disk_a_start_gives_up_and_an_end_is_decided_all_the_same(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of incarnations is the device that is always full."""
    queue()
    run = tmp_path / "run"
    submit_all([planned(run_file, run)])
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    agent._job.cache_clear()
    records.append(run, "begin", incarnation="7.0.1", step=0)
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


def test_what_the_shell_holds_does_not_win_over_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --partition=main\n#SBATCH --time=10\n")
    for name in ("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_TIMELIMIT", "SBATCH_WAIT", "SLURM_CONF", "SLURM_HINT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def passed() -> list[str]:
        return sorted(name for name in scheduler.shell_for(script) if name.startswith(("SBATCH_", "SLURM_")))

    assert passed() == ["SBATCH_ACCOUNT", "SLURM_CONF", "SLURM_HINT"]
    monkeypatch.setenv("SLURM_JOB_ID", "3")  # typed inside another job
    assert passed() == ["SBATCH_ACCOUNT", "SLURM_CONF"]


def test_a_job_that_was_held_for_its_nodes_is_let_go_though_the_answer_was_lost(
    run_file: Path, tools: Path, tmp_path: Path
) -> None:
    """The function of the script in bash; scontrol holds the job, and says that nobody answered."""
    asked = tmp_path / "asked"
    program(tools, "scontrol", f"""echo "$*" >> {asked}
    case "$*" in
        *"show job"*) state=" JobState=RUNNING Restarts=0 "
            grep -q requeuehold {asked} && state=" JobState=PENDING Restarts=1 "; echo "$state" ;;
        requeuehold*) exit 1 ;;
    esac""")  # fmt: skip
    text = planned(run_file, tmp_path / "run").script
    functions = "\n".join(re.findall(r"^\w+\(\) \{(?:.*\}|\n(?:.*\n)*?\})$", text, flags=re.MULTILINE))
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7"}
    script = f"incarnation=x; {functions}\nrequeue 'bad nodes' n2"
    done = subprocess.run(["bash", "-uc", script], env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in asked.read_text().splitlines() if "show" not in line] == [
        "requeuehold 7", "update jobid=7 excnodelist=n2", "release 7"
    ]  # fmt: skip


def test_a_submission_of_a_run_that_began_is_noted(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(run_file, tmp_path / "run")
    for name, stand_in in {"need": str, "check_script": str, "submit": lambda script, after: "7"}.items():
        monkeypatch.setattr(scheduler, name, stand_in)
    monkeypatch.setattr(scheduler, "job_of", lambda run: {})
    monkeypatch.setattr(scheduler, "jobs_of_script", lambda script: {})
    submit_all([job])
    assert records.history(job.stage.folder) == []
    records.append(job.stage.folder, "begin", incarnation="7.0.1", step=0)
    submit_all([job])
    assert [record.get("outcome") for record in records.history(job.stage.folder)] == [None, "resubmitted"]


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
        (job.stage.folder / "slurm").mkdir(parents=True)
        (job.stage.folder / "slurm" / "no_agent").write_text("6 n1\n" * 9)  # of an earlier submission
    excluded = tmp_path / "excluded"
    excluded.write_text("n6,n7,n8,n9")
    program(tools, "scontrol", f"""case "$*" in
        "show hostnames"*) tr , "\\n" <<< "$3" ;;
        *"show job"*) echo " JobState=RUNNING Restarts=0 "; echo "   ExcNodeList=$(cat {excluded})" ;;
        update*) echo "${{@: -1}}" | cut -d= -f2 > {excluded} ;;
    esac""")  # fmt: skip
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
    assert said == [*wanted, (1, "give up: no agent on three nodes before this one")]
    assert excluded.read_text().strip() == "n6,n7,n8,n9,n1,n2,n3"


def test_a_preflight_that_hangs_ends_long_before_the_job(run_file: Path, tmp_path: Path) -> None:
    for time, most, limit in [("24:00:00", 15, 15), ("10", 15, 10), ("10", 3, 3)]:
        changes = {"preflight": True, "time": time, "preflight_minutes": most}
        cluster = load_cluster("cpu-test").model_copy(update=changes)
        (stage,) = load_stages(str(run_file), cluster, [f"run_dir={tmp_path}/r"], 2)
        assert f" --time={limit} --wait=300 " in render(stage).script


QUEUE = """#!/bin/bash
# A scheduler in a folder: one file a job, named by its id, with state and script.
[ -e {base}.away ] && {{ echo "Unable to contact slurm controller" >&2; exit 1; }}
case $(basename $0) in
    squeue) for file in {base}/[0-9]*; do [ -e "$file" ] && echo "$(basename $file)|$(cat $file)"; done; true ;;
    scancel) echo "CANCELLED|x" > {base}/$1 ;;
    scontrol) [ -e {base}/$4 ] || {{ echo "Invalid job id specified" >&2; exit 1; }}
        IFS='|' read -r state script < {base}/$4; echo "JobId=$4 JobState=$state Command=$script" ;;
    sbatch) [ "$1" = --test-only ] && exit 0
        {before}
        number=$((7 + $(ls {base} | grep -c .))); echo "PENDING|${{@: -1}}" > {base}/$number
        {after}
        echo $number ;;
esac
"""


@pytest.fixture
def queue(tools: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Makes a scheduler that keeps a queue and behaves badly before or after it queues a job; returns its folder."""

    def make(before: str = ":", after: str = ":") -> Path:
        base = tmp_path / "queue"
        base.mkdir(exist_ok=True)
        for name in ("sbatch", "squeue", "scancel", "scontrol"):
            program(tools, name, QUEUE.format(base=base, before=before, after=after))
        return base

    return make


TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize("after", ["exec sleep 60", TIMED_OUT], ids=["hangs", "times out"])
def test_a_job_that_was_queued_without_an_answer_is_found_and_not_submitted_again(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr(scheduler, "_TIMEOUT_S", 1.0)
    base = queue(after=after)
    (base / "1").write_text(f"CANCELLED|{tmp_path}/run/slurm/job.sh\n")  # an earlier submission of the same run
    ids, _ = submit_all([planned(run_file, tmp_path / "run")])
    assert ids == {"pretrain": "8"}
    assert records.read_job(tmp_path / "run")["job_id"] == "8"
    assert sorted(file.name for file in base.iterdir()) == ["1", "8"]


def test_a_request_that_was_heard_twice_leaves_one_job(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is queued only after it was given up and sent again."""
    monkeypatch.setattr(scheduler, "_RETRY_S", (0.1,))
    monkeypatch.setattr(scheduler, "_LOOK_S", (0.1,))
    late = f"{{ [ -e {tmp_path}/asked ] && echo 'PENDING|'${{@: -1}} > {tmp_path}/queue/7; }} || "
    base = queue(before=f"{late} {{ touch {tmp_path}/asked; {TIMED_OUT}; }}")
    assert submit_all([planned(run_file, tmp_path / "run")])[0] == {"pretrain": "7"}
    assert [(file.name, file.read_text()[:7]) for file in sorted(base.iterdir())] == [
        ("7", "PENDING"),
        ("8", "CANCELL"),
    ]


def test_a_submission_that_nobody_can_vouch_for_says_so_and_its_job_is_found_later(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(scheduler, "_RETRY_S", (0.1,))
    queue(after=f"touch {tmp_path}/queue.away; {TIMED_OUT}")
    with pytest.raises(LaunchError, match=r"job\.sh may be queued, or not: got Unable to contact slurm controller"):
        submit_all([planned(run_file, run)])
    (tmp_path / "queue.away").unlink()
    base = queue()
    assert records.read_job(run)["job_id"] is None
    assert status_of(run)["job"] == "7"
    assert list(cancel(run, save=False, chain=True)) == ["cancelled: job 7 (PENDING)"]
    (base / "8").write_text(f"PENDING|{run}/slurm/job.sh\n")
    with pytest.raises(LaunchError, match=r"is in the queue already: got job 8, PENDING; megabiomed cancel"):
        submit_all([planned(run_file, run)])


def test_two_operators_cannot_submit_a_run_at_once(run_file: Path, queue: Any, tmp_path: Path) -> None:
    base = queue(after=f"touch {tmp_path}/first; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    job = planned(run_file, tmp_path / "run")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(submit_all, [job])
        while not (tmp_path / "first").exists():
            assert not first.done(), first.exception()
        with pytest.raises(LaunchError, match="run is being submitted by somebody else; wait a moment"):
            submit_all([job])
        with pytest.raises(LaunchError, match="is being submitted"):
            list(resubmit(tmp_path / "run", "this", dry_run=False))
        (tmp_path / "go").touch()
        assert first.result()[0] == {"pretrain": "7"}
    assert [file.name for file in base.iterdir()] == ["7"]


def test_a_job_that_is_not_the_one_that_was_recorded_leaves_the_run_alone(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = queue(), tmp_path / "run"
    submit_all([planned(run_file, run)])
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    found = agent.begin(run, "9.0.1")
    assert (found.verb, found.reason) == ("fail", "job 7 is the job of this run")
    assert status_of(run)["last"] is None
    (base / "7").write_text(f"CANCELLED|{run}/slurm/job.sh\n")  # then a script that was submitted by hand may run
    assert agent.begin(run, "9.0.1").verb == "run"
