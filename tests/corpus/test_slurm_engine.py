"""What a cluster file becomes in the batch script of a build; the cluster itself is in tests/launch/test_slurm_corpus.py."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from megabiomed.config.cluster import ClusterConfig
from megabiomed.corpus.job_folder import JobFolder
from megabiomed.corpus.job_runner import Task

pytest.importorskip("datatrove")
from megabiomed.corpus import slurm_engine


def executor(folder: Path, jobs: int = 3, memory: int = 4, **profile: object) -> slurm_engine.SlurmExecutor:
    task = Task(len, ["x"] * jobs, JobFolder(folder, jobs), 2)
    task.folder.prepare()
    (folder / "trove").mkdir(exist_ok=True)
    request = slurm_engine.Request(ClusterConfig.model_validate(profile), memory)
    return slurm_engine.SlurmExecutor(task, request, folder / "trove", "name")


def script(found: slurm_engine.SlurmExecutor) -> str:
    return found.get_launch_file_contents(found.get_sbatch_args(3), "")


def test_the_profile_of_trainings_serves_the_build(tmp_path: Path) -> None:
    text = script(
        executor(
            tmp_path, partition="cpu", account="bio", time="02:00:00", cpus_per_task=2, python="/env/bin/python",
            srun=["--container-image=a b"], wrap=["nice"], modules=["gcc/12"],
            sbatch={"exclusive": True, "nice": 100, "requeue-x": False, "spread-job": True},
        )
    )  # fmt: skip
    lines = re.findall(r"^#SBATCH --(\S+)", text, re.MULTILINE)
    wanted = {"partition=cpu", "account=bio", "time=02:00:00", "cpus-per-task=2", "mem-per-cpu=4G", "array=0-2%2"}
    assert wanted | {"nice=100", "spread-job", "requeue", "open-mode=append", "job-name=name"} <= set(lines)
    assert not [line for line in lines if line.startswith(("exclusive", "qos", "gpus", "requeue-x"))]
    command = "srun --mpi=none '--container-image=a b' --label --ntasks=1 nice /env/bin/python -m datatrove"
    assert command in text
    assert "module load gcc/12" in text


def test_what_a_profile_does_not_say_is_left_to_the_cluster(tmp_path: Path) -> None:
    text = script(executor(tmp_path, memory=0, sbatch={"qos": "high"}))
    assert not re.search(r"--(partition|account|mem)", text)
    assert "#SBATCH --qos=high" in text


def test_an_array_has_no_more_elements_than_slurm_takes(tmp_path: Path) -> None:
    assert executor(tmp_path, jobs=2500).tasks_per_job == 3


def test_credentials_reach_the_jobs_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the environment of sbatch; a stand-in writes down what it gets."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")  # of the operator's shell: it would override the script
    (tmp_path / "bin").mkdir()
    for name, words in (("sbatch", f"env > {tmp_path}/seen; echo Submitted batch job 7"), ("squeue", ":")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{words}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    said: list[str] = []
    cluster = ClusterConfig.model_validate({"environment": {"API_TOKEN": "geheim-1234567", "COLOUR": "blue"}})
    task = Task(len, ["x"], JobFolder(tmp_path / "jobs", 1), 0)
    task.folder.prepare()
    slurm_engine.SlurmEngine(slurm_engine.Request(cluster), said.append).start(task)
    seen = (tmp_path / "seen").read_text()
    assert ("API_TOKEN=geheim-1234567" in seen, "COLOUR=blue" in seen, "SBATCH_TIMELIMIT" in seen) == (
        True,
        True,
        False,
    )
    assert "API_TOKEN" not in os.environ
    assert os.environ["SBATCH_TIMELIMIT"] == "1"
    kept = [file for file in (tmp_path / "jobs").rglob("*") if file.is_file()]
    assert {"executor.pik", "executor.json", "launch_script.slurm"} <= {file.name for file in kept}
    assert not [file for file in kept if b"geheim" in file.read_bytes()]
    assert "1 jobs: array 7" in said[0]
