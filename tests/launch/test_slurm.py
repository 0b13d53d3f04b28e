"""Real pretraining jobs on a real SLURM: whatever happens to them, they end with the losses of a run that nobody touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from support.operator import Operator, run_words
from support.runs import events

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(400)]


def test_a_chain_runs_in_order_and_its_second_stage_starts_from_the_first(
    operator: Operator, tmp_path: Path, untouched: Any
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    stages = [
        {"name": "first", "run": str(operator.run_file), "nodes": 2, "overrides": run_words(one, 12)},
        {
            "name": "second",
            "run": str(operator.run_file),
            "nodes": 1,
            "overrides": [f"run_dir={two}", "train.steps=14", "parallel.data_parallel_size=1",
                          f"checkpoint.resume={one}/checkpoints/step_00000012"],
        },
    ]  # fmt: skip
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"name": "both", "stages": stages}))
    ids = operator.submit(chain, nodes=None)
    assert list(ids) == ["first", "second"]
    assert operator.final(ids["second"], two)["JobState"] == "COMPLETED", operator.logs(two)
    operator.ends_as(one, untouched(12))
    assert events(two)[0]["event"] == "resume"
    assert events(two)[0]["step"] == 12
    rows = operator.status(one)
    assert [(row["stage"], row["state"], row["step"]) for row in rows] == [
        ("first", "FINISHED", 12),
        ("second", "FINISHED", 14),
    ]


@pytest.mark.slow
def test_requeued_warned_and_robbed_of_a_rank_it_goes_on_to_the_same_end(
    operator: Operator, tmp_path: Path, untouched: Any
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
    assert operator.status(run)[0]["last"] == "stopped and saved"
    seen = operator.step(run)
    operator.until(lambda: operator.step(run) > seen + 5, run)
    operator.kill_rank(run, 3)
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    assert operator.cluster.job(job)["Restarts"] == "3"
    operator.ends_as(run, untouched(steps))
    assert operator.status(run)[0]["state"] == "FINISHED"
    assert "submitted" not in operator.type("resubmit", run)
    operator.cluster.run("scontrol", "requeue", job)  # of a finished run does nothing
    operator.until(lambda: "finished already" in (run / "slurm" / "job.log").read_text(), run)
    operator.ends_as(run, untouched(steps))


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
    one, two = tmp_path / "one", tmp_path / "two"
    stages = [
        {"name": "first", "run": str(operator.run_file), "nodes": 1,
         "overrides": [f"run_dir={one}", "model.num_attention_heads=4", "parallel.data_parallel_size=1"]},
        {"name": "second", "run": str(operator.run_file), "nodes": 1,
         "overrides": [f"run_dir={two}", "parallel.data_parallel_size=1"]},
    ]  # fmt: skip
    chain = tmp_path / "chain.yaml"
    chain.write_text(yaml.safe_dump({"name": "doomed", "stages": stages}))
    operator.configure(
        environment={"OMP_NUM_THREADS": "1", "MASTER_ADDR": "n1", "MALLOC_ARENA_MAX": "1"}, wrap=["false"]
    )
    ids = operator.submit(chain, nodes=None)
    first = operator.final(ids["first"], one)
    assert (first["JobState"], first["Restarts"]) == ("FAILED", "1"), operator.logs(one)
    assert operator.final(ids["second"], two)["JobState"] == "CANCELLED"
    assert "failure 2 of 2 without progress" in operator.status(one)[0]["last"]


def test_the_kill_switch_saves_ends_and_keeps_the_chain_from_starting(operator: Operator, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (job,) = operator.submit(None, *run_words(run, 100000, "checkpoint.save_every=0")).values()
    operator.until(lambda: operator.step(run) >= 3, run)
    operator.type("save", run)
    operator.until(lambda: list((run / "checkpoints").glob("step_*/COMMITTED")), run)
    assert "asked to save and leave" in operator.type("cancel", run, "--save")
    assert operator.final(job, run)["ExitCode"] == "3:0"
    saved = sorted((run / "checkpoints").glob("step_*/COMMITTED"))
    assert len(saved) == 2
    assert events(run)[-1]["event"] == "ended"
