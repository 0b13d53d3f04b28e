"""A submitted run with another size, limit or place: checked like a submission, never two jobs that can start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.scheduling import planned, program

from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.launch import records
from megabiomed.launch.change import Change, changed, stored_stage
from megabiomed.launch.control import resubmit
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import Job, prepare, render


@pytest.fixture
def job(run_file: Path, tmp_path: Path) -> Job:
    """A submitted run of one node that avoids n9."""
    found = planned(run_file, tmp_path / "run", exclude="n9", partition="main")
    prepare(found, [tmp_path / "run"])
    record = records.read_job(tmp_path / "run") | {"job_id": "7"}
    (tmp_path / "run" / "slurm" / "job.json").write_text(json.dumps(record))
    return found


def test_a_record_gives_back_the_stage_that_was_submitted(job: Job) -> None:
    found = stored_stage(job.stage.folder)
    assert render(found).script == job.script
    assert replace(found, config=None) == replace(job.stage, config=None, typed=found.typed)


def test_only_what_was_asked_for_changes(job: Job) -> None:
    found = changed(job.stage.folder, Change(time="02:00:00", partition="low", exclude="n[1-2]"))
    before, now = (set(text.splitlines()) for text in (job.script, found.script))
    assert {"#SBATCH --time=02:00:00", "#SBATCH --partition=low", "#SBATCH --exclude=n[1-2]"} <= now - before
    assert {line.split("=")[0] for line in before - now if "#SBATCH" in line} == {
        "#SBATCH --time", "#SBATCH --partition", "#SBATCH --exclude",
    }  # fmt: skip
    assert "--exclude" not in changed(job.stage.folder, Change(exclude="")).script
    assert str(Change(nodes=2, exclude="")) == "nodes 2, exclude none"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (Change(nodes=3), ConfigError), (Change(time="00:00:10"), ConfigError), (Change(time="soon"), ConfigError),
        (Change(partition="a b"), ConfigError),
    ],
)  # fmt: skip
def test_what_a_submission_would_refuse_is_refused(job: Job, change: Change, error: type[Exception]) -> None:
    script = job.path.read_text()
    with pytest.raises(error):
        changed(job.stage.folder, change)
    assert job.path.read_text() == script


def test_a_run_that_shrinks_is_submitted_again_on_the_fewest_nodes_that_it_fits(run_file: Path, tmp_path: Path) -> None:
    run, profile = tmp_path / "run", ClusterConfig(tasks_per_node=1, shrink_after=60)
    (stage,) = load_stages(str(run_file), profile, [f"run_dir={run}", "parallel.tensor_parallel_size=2"], 4)
    prepare(render(stage), [run])
    fewest = changed(run, Change(nodes=2))
    assert (stage.sizes, fewest.stage.sizes) == ((4, 2), ())
    assert "#SBATCH --nodes=2" in fewest.script.splitlines()
    prepare(fewest, [run])
    assert changed(run, Change(nodes=4)).stage.sizes == (4, 2)
    with pytest.raises(ConfigError, match="expected tensor 2"):
        changed(run, Change(nodes=1))


def test_a_run_of_an_earlier_release_has_to_be_submitted_again(job: Job) -> None:
    file = job.stage.folder / "slurm" / "job.json"
    record = json.loads(file.read_text())
    del record["sbatch"]
    file.write_text(json.dumps(record))
    with pytest.raises(LaunchError, match="by an earlier release"):
        changed(job.stage.folder, Change(nodes=1))


@pytest.mark.parametrize("refused", [False, True])
def test_a_waiting_job_is_held_until_another_one_has_taken_its_place(job: Job, tools: Path, refused: bool) -> None:
    run, asked = job.stage.folder, tools / "asked"
    told = f'echo "$(basename $0) $*" >> {asked}'
    program(
        tools, "scontrol", f'{told}; echo "JobId=7 JobState=PENDING Priority=5 Command={job.path} Reason=Resources"'
    )
    program(tools, "scancel", told)
    program(tools, "squeue", f'{told}; [[ "$*" == *%E* ]] && echo "9|afterok:7(unfulfilled)"; true')
    program(
        tools, "sbatch", f'{told}; [[ "$*" == *test-only* ]] || {"{ echo no >&2; exit 1; }" if refused else "echo 8"}'
    )
    script = job.path.read_text()
    if refused:
        with pytest.raises(LaunchError, match="sbatch refused: got no"):
            list(resubmit(run, "this", False, Change(time="02:00:00")))
    else:
        said, *_ = resubmit(run, "this", False, Change(time="02:00:00"))
        assert said == "submitted: pretrain: job 8 (time 02:00:00)"
    calls = [line for line in asked.read_text().splitlines() if "show" not in line and not line.startswith("squeue")]
    done = [line.split(" /")[0] for line in calls]
    end = ["scontrol release 7"] if refused else ["scontrol update jobid=9 dependency=afterok:8", "scancel 7"]
    assert done == ["scontrol hold 7", "sbatch --test-only", "sbatch --parsable", *end]
    assert (job.path.read_text() == script) == refused
    assert records.read_job(run)["job_id"] == ("7" if refused else "8")


def test_a_running_job_is_to_be_paused_first(job: Job, tools: Path) -> None:
    for name in ("scontrol", "sbatch"):
        program(tools, name, f'echo "JobId=7 JobState=RUNNING Command={job.path}"')
    with pytest.raises(LaunchError, match=r"runs, so its job cannot be changed: .*megabiomed pause"):
        list(resubmit(job.stage.folder, "this", False, Change(nodes=1)))
    assert list(resubmit(job.stage.folder, "this", True, Change(nodes=1))) == ["would submit: pretrain: nodes 1"]
