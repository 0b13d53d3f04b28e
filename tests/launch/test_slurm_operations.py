"""What operators type, on a real SLURM, without a training: every test takes seconds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.operator import Operator
from support.scheduling import planned

from megabiomed.ground.errors import LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.account import accounts
from megabiomed.launch.capacity import can_start
from megabiomed.launch.change import Change
from megabiomed.launch.control import cancel, resubmit, scontrol
from megabiomed.launch.follow import failed_log
from megabiomed.launch.pause import pause
from megabiomed.launch.status import status_of, statuses
from megabiomed.launch.status_table import row
from megabiomed.launch.submit import render, submit_all
from megabiomed.launch.successor import hand_over

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def login_node(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands of this process reach the private cluster."""
    monkeypatch.setenv("SLURM_CONF", operator.cluster.environment["SLURM_CONF"])


def test_a_run_is_in_the_queue_under_every_path_that_leads_to_it(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lustre").mkdir()
    (tmp_path / "scratch").symlink_to(tmp_path / "lustre")
    ids, _ = submit_all([planned(run_file, tmp_path / "scratch" / "run", begin="now+1hour")])
    monkeypatch.chdir(tmp_path / "lustre")
    for path in (
        Path("run"),
        Path("../lustre/run"),
        Path("../scratch/run"),
        tmp_path / "scratch" / ".." / "lustre" / "run",
    ):
        assert status_of(path)["job"] == ids["pretrain"]
        assert status_of(path)["state"] == "PENDING"
        assert "in the queue: pretrain: job" in next(resubmit(path, "this", dry_run=True))
        with pytest.raises(LaunchError, match=f"is in the queue already: got job {ids['pretrain']}, PENDING"):
            submit_all([planned(run_file, path.absolute(), begin="now+1hour")])
    assert list(cancel(Path("../lustre/run"), save=False, chain=True)) == [
        f"cancelled: job {ids['pretrain']} (PENDING)"
    ]
    assert list(cancel(Path("run"), save=False, chain=True)) == [
        f"nothing to cancel: job {ids['pretrain']} (CANCELLED)"
    ]


def test_jobs_wait_for_the_successor_of_the_job_that_they_waited_for(operator: Operator) -> None:
    def submit(*words: str) -> str:
        return operator.cluster.run("sbatch", "--parsable", "--output=/dev/null", *words, "--wrap=true").strip()

    one, two = submit("--hold"), submit("--hold")
    waits = submit(f"--dependency=afterok:{one}", "--kill-on-invalid-dep=yes")
    assert hand_over(one, two) == [waits]
    operator.cluster.run("scancel", one)
    assert operator.cluster.job(waits)["Dependency"].startswith(f"afterok:{two}")
    operator.cluster.run("scontrol", "release", two)
    operator.until(lambda: operator.cluster.job(waits)["JobState"] == "COMPLETED", operator.folder)


def test_a_job_that_is_shut_out_of_too_many_nodes_says_so_and_is_let_in_again(
    operator: Operator, run_file: Path, tmp_path: Path
) -> None:
    for command in ("release", "resubmit"):
        run = tmp_path / command
        (job,) = submit_all([planned(run_file, run, begin="now+1hour", exclude="n4")])[0].values()
        operator.cluster.run("scontrol", "update", f"jobid={job}", "excnodelist=n[1-4]", "starttime=now")
        operator.until(lambda run=run: status_of(run)["reason"] == "BadConstraints", run)
        assert "(excluded: n[1-4]): repair them, then megabiomed release" in row(status_of(run))[-1]
        (said,) = scontrol(run, "release") if command == "release" else resubmit(run, "this", dry_run=False)
        assert f"job {job}" in said
        assert "excluded nodes are tried again: n[1-4]" in said
        assert operator.cluster.job(job)["ExcNodeList"] == "n4"
        operator.cluster.run("scancel", job)


def test_enough_nodes_are_asked_for_before_more_of_them_are_excluded(
    operator: Operator, run_file: Path, tmp_path: Path
) -> None:
    (job,) = submit_all([planned(run_file, tmp_path / "run", begin="now+1hour")])[0].values()
    script, fields = tmp_path / "run" / "slurm" / "job.sh", operator.cluster.job(job)
    assert can_start(fields, script, 1, {"n1", "n2", "n3"})
    assert not can_start(fields, script, 1, {"n1", "n2", "n3", "n4"})
    assert not can_start(fields, script, 3, {"n1", "n2"})
    script.write_text(script.read_text().replace("#SBATCH --requeue", "#SBATCH --nodelist=n2\n#SBATCH --requeue"))
    assert can_start(fields, script, 1, {"n1"})
    assert not can_start(fields, script, 1, {"n2"})


def test_a_python_that_is_nowhere_is_not_blamed_on_all_nodes(
    operator: Operator, run_file: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    stage = planned(run_file, run).stage
    cluster = stage.cluster.model_copy(update={"host_python": Path("/opt/nope/python")})
    (job,) = submit_all([render(replace(stage, cluster=cluster, nodes=4))])[0].values()
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"], found["ExcNodeList"]) == ("FAILED", "0", "(null)")
    said = "no answer from the agent on n1: /opt/nope/python is not there, and too few nodes are left without it"
    assert status_of(run)["last"] == said


def test_what_would_wait_for_ever_is_taken_back_with_its_chain(
    operator: Operator, run_file: Path, tmp_path: Path
) -> None:
    """The scheduler queues a job above the limit of its partition, and only its reason tells."""
    first = planned(run_file, tmp_path / "first", begin="now+1hour")
    second = planned(run_file, tmp_path / "second", partition="low")
    waits = render(replace(second.stage, name="second", after=("pretrain",)))
    operator.cluster.run("scontrol", "update", "partitionname=low", "maxtime=00:05:00")
    try:
        for chain in ([second], [first, waits]):
            with pytest.raises(
                LaunchError, match=r"never start stage (pretrain|second): got Partition\w+; .*partition"
            ):
                submit_all(chain)
            assert operator.cluster.run("squeue", "-h") == ""
    finally:
        operator.cluster.run("scontrol", "update", "partitionname=low", "maxtime=UNLIMITED")
    said = submit_all([first, waits])[1]
    assert said["pretrain"].startswith("to start at")
    assert said["second"] == "after pretrain"


def test_the_first_failing_task_is_named_by_its_node_and_a_killed_script_by_what_to_type(
    operator: Operator, run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks that are shell scripts; then two runs are shown by one call of the controller."""
    for name, does in {"dies": "[ $SLURM_PROCID = 1 ] && kill -9 $$", "stays": ":"}.items():
        (tmp_path / name).write_text(f"#!/bin/bash\necho begun; {does}\nsleep 100\n")
        (tmp_path / name).chmod(0o755)
    run, stage = tmp_path / "run", planned(run_file, tmp_path / "run").stage
    cluster = stage.cluster.model_copy(
        update={
            "python": tmp_path / "dies",
            "host_python": Path(sys.executable),
            "preflight": False,
            "max_failures": 1,
            "tasks_per_node": 1,
        }
    )
    (job,) = submit_all([render(replace(stage, cluster=cluster, nodes=2))])[0].values()
    assert operator.final(job, run)["JobState"] == "FAILED"
    found = status_of(run)
    assert found["last"].endswith(": rank 1 on n2 failed first: Killed (SIGKILL)")
    assert (found["first_failure"]["node"], found["failures"], found["starts"]) == ("n2", 1, 1)
    said, file = failed_log(run)
    assert (said.count("rank 1 on n2"), file and file.read_text()) == (1, "begun\n")

    other, stays = tmp_path / "other", cluster.model_copy(update={"python": tmp_path / "stays"})
    (second,) = submit_all([render(replace(stage, folder=other, cluster=stays, nodes=2))])[0].values()
    operator.until(lambda: "starting the ranks" in operator.logs(other), other)
    operator.cluster.run("scancel", "--batch", "--signal=KILL", second)
    assert operator.final(second, other)["JobState"] == "FAILED"
    assert status_of(other)["blocked"].endswith(f"megabiomed resubmit {other}")

    calls: list[tuple[str, ...]] = []
    called = scheduler.call
    monkeypatch.setattr(
        scheduler, "call", lambda *words, patient=True: [calls.append(words), called(*words, patient=patient)][1]
    )
    assert [item["job"] for item in statuses([run, other] * 20)] == [job, second] * 20
    assert [words[0] for words in calls if words[0] != "sacct"] == ["squeue"]


def test_a_run_is_paused_changed_while_it_waits_and_released_and_nothing_is_lost(
    operator: Operator, run_file: Path, tmp_path: Path
) -> None:
    """Ranks that are shell scripts, and obey the switch as real ones do: they leave together, with a verdict."""
    run, stage = tmp_path / "run", planned(run_file, tmp_path / "run").stage
    (tmp_path / "ranks").write_text(
        f"#!/bin/bash\necho begun\nuntil [ -e {run}/control/pause ]; do sleep 0.1; done\n"
        """[ $SLURM_PROCID = 0 ] && echo '{"outcome": "stopped"}' > $MEGABIOMED_VERDICT; true\n"""
    )
    (tmp_path / "ranks").chmod(0o755)
    changes = {
        "python": tmp_path / "ranks",
        "host_python": Path(sys.executable),
        "preflight": False,
        "tasks_per_node": 1,
    }
    cluster = stage.cluster.model_copy(update=changes)
    (job,) = submit_all([render(replace(stage, cluster=cluster))])[0].values()
    operator.until(lambda: "starting the ranks" in operator.logs(run), run)
    with pytest.raises(LaunchError, match="megabiomed pause"):
        list(resubmit(run, "this", dry_run=False, change=Change(nodes=2)))
    assert "asked to save and wait" in next(pause(run))
    found = operator.until(lambda: (fields := operator.cluster.job(job))["JobState"] == "PENDING" and fields, run)
    assert (found["Restarts"], found["Priority"]) == ("1", "0")
    assert status_of(run)["last"] == "stopped and saved"
    assert status_of(run)["blocked"] == f"paused: megabiomed release {run}"
    told = f"in the queue: pretrain: job {job} (PENDING): it is held: megabiomed release"
    operator.until(lambda: list(resubmit(run, "this", dry_run=True)) == [told], run)

    assert list(scontrol(run, "release")) == [f"release: job {job}"]
    operator.until(lambda: operator.cluster.job(job)["JobState"] == "RUNNING" and status_of(run)["starts"] == 2, run)
    assert "asked to save and wait" in next(pause(run))
    operator.until(lambda: operator.cluster.job(job)["JobState"] == "PENDING", run)
    waits = operator.cluster.run(
        "sbatch", "--parsable", "--output=/dev/null", f"--dependency=afterok:{job}", "--wrap=true"
    ).strip()
    said = list(resubmit(run, "this", dry_run=False, change=Change(nodes=2, exclude="n1", time="00:07:00")))
    new = records.read_job(run)["job_id"]
    assert said[0] == f"submitted: pretrain: job {new} (nodes 2, time 00:07:00, exclude n1)"
    assert operator.cluster.job(job)["JobState"] == "CANCELLED"
    assert operator.cluster.job(waits)["Dependency"].startswith(f"afterok:{new}")
    fields = operator.until(lambda: (now := operator.cluster.job(new))["JobState"] == "RUNNING" and now, run)
    assert (fields["NumNodes"], fields["ExcNodeList"], fields["TimeLimit"]) == ("2", "n1", "00:07:00")
    (found_account,) = accounts([run])
    assert (found_account.source, found_account.starts >= 2) == ("records", True)


def test_runs_of_a_sweep_take_turns_however_they_end(operator: Operator) -> None:
    """afterany waits through a requeue, which does not end a job."""
    script = operator.folder / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\n#SBATCH --requeue\nsleep 100\n")
    first = scheduler.submit(script, [])
    second = scheduler.submit(script, [], turn=[first])
    operator.until(lambda: operator.cluster.job(first)["JobState"] == "RUNNING", operator.folder)
    operator.cluster.run("scontrol", "requeuehold", first)
    operator.until(lambda: operator.cluster.job(first)["JobState"] == "PENDING", operator.folder)
    assert operator.cluster.job(second)["Reason"] == "Dependency"
    operator.cluster.run("scancel", first)
    operator.until(lambda: operator.cluster.job(second)["JobState"] == "RUNNING", operator.folder)
