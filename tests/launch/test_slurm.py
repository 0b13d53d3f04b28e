"""Real pretraining jobs on a real SLURM: whatever happens to them, they end with the losses of a run that nobody touched."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml
from support.operator import SHORT, Operator, run_words
from support.reference import Reference
from support.runs import events

from megabiomed.config.cluster import load_cluster
from megabiomed.ground.errors import LaunchError
from megabiomed.launch import records, scheduler
from megabiomed.launch.control import cancel
from megabiomed.launch.follow import newest_log
from megabiomed.launch.stage import load_stages
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import render, submit_all
from megabiomed.processes import slurm_commands

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_chain_saves_is_killed_and_submitted_again_and_its_second_stage_starts_from_the_first(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    stages = [
        {"name": "first", "run": str(operator.run_file), "nodes": 2,
         "overrides": run_words(one, SHORT, "checkpoint.save_every=0")},
        {"name": "second", "run": str(operator.run_file), "nodes": 1,
         "overrides": [f"run_dir={two}", f"train.steps={SHORT + 2}", "parallel.data_parallel_size=1",
                       f"checkpoint.resume={one}/checkpoints/step_{SHORT:08d}"]},
    ]  # fmt: skip
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"name": "both", "stages": stages}))
    ids = operator.submit(chain, nodes=None)
    assert list(ids) == ["first", "second"]
    operator.until(lambda: operator.step(one) >= 2, one)
    with operator.frozen(one):
        assert "is in the queue already" in operator.type("submit", chain, "--cluster", operator.profile, code=2)
        operator.type("save", one)
    operator.until(lambda: list((one / "checkpoints").glob("step_*/COMMITTED")), one)
    with operator.frozen(one):
        said = operator.type("cancel", one, "--save")
        assert (said.count("asked to save and leave"), said.count("cancelled: job")) == (1, 1)
    assert operator.final(ids["first"], one)["ExitCode"] == "3:0"
    assert operator.cluster.job(ids["second"])["JobState"] == "CANCELLED"
    assert len(list((one / "checkpoints").glob("step_*/COMMITTED"))) == 2
    assert events(one)[-1]["event"] == "ended"

    assert "would submit: first" in operator.type("resubmit", two, "--dry-run")
    operator.type("resubmit", two)
    second = json.loads((two / "slurm" / "job.json").read_text())["job_id"]
    assert operator.final(second, two)["JobState"] == "COMPLETED", operator.logs(two) + operator.logs(one)
    operator.ends_as(one, reference, SHORT)
    assert (events(two)[0]["event"], events(two)[0]["step"]) == ("resume", SHORT)
    rows = operator.status(one)
    assert [(row["stage"], row["state"], row["step"], row["starts"]) for row in rows] == [
        ("first", "FINISHED", SHORT, 2),
        ("second", "FINISHED", SHORT + 2, 1),
    ]
    assert [row["run"] for row in operator.status(two)] == [row["run"] for row in rows]
    assert "nothing to hold" in operator.type("hold", one)
    said = operator.type("submit", chain, "--cluster", operator.profile)
    assert (said.count("finished already"), said.count("submitted")) == (2, 0)
    assert f"step: {SHORT}/{SHORT}" in operator.type("logs", one, "--lines", 20)


def test_a_stranger_that_was_given_the_job_id_again_is_left_alone(operator: Operator, tmp_path: Path) -> None:
    """A controller that lost its last seconds hands out job ids twice."""
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, 5), "--sbatch", "begin=now+1hour").values()
    held = operator.type("hold", run)
    assert operator.status(run)[0]["reason"] == "JobHeldAdmin"
    assert "release" in operator.type("release", run)
    assert job in held
    stranger = operator.cluster.run("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600").strip()
    file = run / "slurm" / "job.json"
    file.write_text(file.read_text().replace(f'"job_id": "{job}"', f'"job_id": "{stranger}"'))
    assert "nothing to cancel" in operator.type("cancel", run)
    assert operator.status(run)[0]["state"] == "not in the queue"
    assert operator.cluster.job(stranger)["JobState"] in ("PENDING", "RUNNING")


@pytest.mark.parametrize("parts", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["one kind of nodes", "two kinds"])
def test_a_job_whose_submission_got_no_answer_is_the_job_of_its_run(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """sbatch queues the job and then hangs, as when the controller's answer is lost."""
    run, tools = tmp_path / "run", tmp_path / "bin"
    tools.mkdir()
    queue = f'{shutil.which("sbatch")} "$@" || exit; [ "$1" = --test-only ] || exec sleep 60'
    (tools / "sbatch").write_text(f"#!/bin/bash\n{queue}\n")
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setattr(slurm_commands, "TIMEOUT_S", 2.0)
    monkeypatch.setenv("SLURM_CONF", operator.cluster.environment["SLURM_CONF"])
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")  # of the operator's shell
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    stage = {
        "name": "s",
        "run": str(operator.run_file),
        "overrides": run_words(run, 5),
        "sbatch": {"begin": "now+1hour"},
    }
    stage |= {"components": [{"ranks_per_node": 2}]} if parts else {"nodes": 2}
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "c", "stages": [stage]}))
    cluster = load_cluster(str(operator.profile))
    jobs = [render(stage) for stage in load_stages(str(tmp_path / "chain.yaml"), cluster, [], None)]
    (job,) = submit_all(jobs)[0].values()
    queued = operator.cluster.job(job)
    assert (queued["Command"], queued["TimeLimit"]) == (str(run / "slurm" / "job.sh"), "00:10:00")
    assert scheduler.jobs_of_script(run / "slurm" / "job.sh") == {job: "PENDING"}
    (run / "slurm" / "job.json").write_text(json.dumps(records.read_job(run) | {"job_id": None}))  # died at this moment
    assert status_of(run)["job"] == job
    with pytest.raises(LaunchError, match=f"is in the queue already: got job {job}, PENDING"):
        submit_all(jobs)
    assert list(cancel(run, save=False, chain=True)) == [f"cancelled: job {job} (PENDING)"]
    assert operator.cluster.run("squeue", "-h") == ""


def test_what_the_scheduler_would_refuse_is_not_submitted(operator: Operator, tmp_path: Path) -> None:
    run = tmp_path / "run"
    operator.configure(partition="nosuch")
    words = ["submit", operator.run_file, "--cluster", operator.profile]
    assert "invalid partition" in operator.type(*words, "--nodes", "2", *run_words(run, 5), code=2)
    operator.configure()
    many = ["parallel.data_parallel_size=9", "data.global_batch_size=18"]
    assert "the scheduler refuses" in operator.type(*words, "--nodes", "9", *run_words(run, 5, *many), code=2)
    assert operator.cluster.run("squeue", "-h") == ""


def test_a_run_that_fails_without_progress_gives_up_and_takes_its_dependents_along(
    operator: Operator, tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    alone = "parallel.data_parallel_size=1"
    stages = [
        {"name": name, "run": str(operator.run_file), "nodes": 1, "overrides": [f"run_dir={folder}", alone]}
        for name, folder in {"first": one, "second": two, "third": three}.items()
    ]
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"name": "doomed", "stages": stages}))
    told = tmp_path / "told"
    page = ["bash", "-c", f'echo "$0" >> {told}; [ $(grep -c . {told}) -gt 1 ]', "{event} {title}"]
    operator.configure(wrap=["false"], notify=[{"command": page}])
    ids = operator.submit(chain, nodes=None)
    first = operator.final(ids["first"], one)
    assert (first["JobState"], first["Restarts"]) == ("FAILED", "0"), operator.logs(one)
    assert operator.final(ids["second"], two)["JobState"] == "CANCELLED"
    assert operator.final(ids["third"], three)["JobState"] == "CANCELLED"
    assert "failure 2 of 2 without progress" in operator.status(one)[0]["last"]
    # The receiver fails at the first try; there was no other start that could have told it again.
    assert told.read_text() == "give-up doomed/first: gave up\n"
    assert (one / "slurm" / "job.log").read_text().count("notify: command bash: exit code 1") == 1
    assert "1 of 1 messages delivered" in operator.type("notify", one)


def starts(run: Path) -> int:
    """Incarnations that began to train."""
    return sum(
        record["kind"] == "begin" and log.is_file()
        for record in records.history(run)
        for log in [run / "logs" / record["incarnation"] / "rank_0.log"]
    )


@pytest.mark.slow
def test_requeued_warned_and_robbed_of_a_rank_it_goes_on_to_the_same_end(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    """An operator's requeue, the warning before a time limit or a preemption, and a rank that dies: one run, all three."""
    run, steps = tmp_path / "run", 120
    (job,) = operator.submit(None, *run_words(run, steps)).values()
    operator.until(lambda: operator.step(run) >= 8, run)
    operator.cluster.run("scontrol", "requeue", job)
    seen = operator.step(run)
    operator.until(lambda: operator.step(run) > seen + 5, run)
    operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
    operator.until(lambda: operator.cluster.job(job)["Restarts"] == "2", run)
    assert operator.status(run)[0]["last"].startswith("stopped and saved")
    seen = operator.step(run)
    operator.until(lambda: operator.step(run) > seen + 5, run)
    operator.kill_rank(run, 3)
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    assert operator.cluster.job(job)["Restarts"] == "2"  # the rank cost no requeue
    operator.ends_as(run, reference, steps)
    assert operator.status(run)[0]["state"] == "FINISHED"
    assert "submitted" not in operator.type("resubmit", run)
    operator.cluster.run("scontrol", "requeue", job)  # of a finished run does nothing
    operator.until(lambda: "finished already" in (run / "slurm" / "job.log").read_text(), run)
    operator.ends_as(run, reference, steps)


@pytest.mark.slow
def test_a_run_that_dies_again_and_again_exhausts_its_budget_and_goes_on_when_it_is_repaired(
    operator: Operator, tmp_path: Path, reference: Reference
) -> None:
    run, after = tmp_path / "run", tmp_path / "after"
    steps = 60
    words = run_words(run, steps, "checkpoint.save_every=0")
    stages = [
        {"name": "dies", "run": str(operator.run_file), "nodes": 2, "overrides": words},
        {"name": "waits", "run": str(operator.run_file), "nodes": 2, "overrides": run_words(after, 5)},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "c", "stages": stages}))
    ids = operator.submit(tmp_path / "chain.yaml", nodes=None)
    for start in (1, 2):
        operator.until(lambda count=start: starts(run) == count, run)
        operator.until(lambda: newest_log(run, 0) and "step: 3/" in newest_log(run, 0).read_text(), run)
        operator.kill_rank(run, start)
    assert operator.final(ids["dies"], run)["JobState"] == "FAILED", operator.logs(run)
    assert operator.final(ids["waits"], after)["JobState"] == "CANCELLED"
    assert "failure 2 of 2 without progress, exit code 137" in operator.status(run)[0]["last"]
    operator.type("resubmit", run, "--only", "this")
    job = json.loads((run / "slurm" / "job.json").read_text())["job_id"]
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, steps)
