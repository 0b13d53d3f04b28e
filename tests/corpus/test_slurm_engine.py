"""What a cluster file becomes in the batch script of a build; the cluster itself is in tests/launch/test_slurm_corpus.py."""

from __future__ import annotations

import os
import re
import signal
import sys
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
    kept = "--container-env=OMP_NUM_THREADS,PYTHONUNBUFFERED"
    assert f"srun --mpi=none '--container-image=a b' {kept} --label --ntasks=1 sh -c " in text
    assert " nice /env/bin/python -m megabiomed.corpus.slurm_task " in text
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


PODMAN = """
import itertools, os, sys
# Variables of an image replace those outside, but for the ones that are named.
options = list(itertools.takewhile(lambda word: word.startswith("--"), sys.argv[2:]))
named = [word.removeprefix("--env=") for word in options if word.startswith("--env=")]
outside = dict(os.environ) if "--env-host" in options else {}
image = {"OMP_NUM_THREADS": "64", "COLOUR": "grey", "PYTHONPATH": "/image"}
program = sys.argv[3 + len(options) :]
os.execvpe(program[0], program, outside | image | {name: os.environ[name] for name in named if name in os.environ})
"""


def on_one_node(folder: Path, monkeypatch: pytest.MonkeyPatch, task: Task, **profile: object) -> str:
    """Submit with stand-ins for SLURM and podman that run an array's first element at once; returns its log."""
    log = folder / "job.log"
    programs = {
        "sbatch": "#!/bin/bash\n[ $1 = --test-only ] && exit\n"
        f"SLURM_ARRAY_TASK_ID=0 bash ${{@: -1}} &> {log}\necho Submitted batch job 7\n",
        "srun": '#!/bin/bash\nuntil [ $1 = --ntasks=1 ]; do shift; done\nshift\n"$@"\necho "exit code $?"\n',
        "squeue": "#!/bin/bash\n",
        "podman": f"#!{sys.executable}{PODMAN}",
    }
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm_engine, "ARRAY", 1)  # one element has all jobs
    task.folder.prepare()
    cluster = ClusterConfig.model_validate({"python": sys.executable} | profile)
    slurm_engine.SlurmEngine(slurm_engine.Request(cluster), lambda line: None).start(task)
    return log.read_text()


def test_jobs_in_a_container_have_the_variables_of_the_cluster_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ["COLOUR", "TMPDIR", "API_TOKEN", "OMP_NUM_THREADS", "PYTHONPATH"]
    task = Task(os.getenv, names, JobFolder(tmp_path / "jobs", len(names)), 0)
    said = on_one_node(
        tmp_path, monkeypatch, task, wrap=["podman", "run", "--rm", "image"], cpus_per_task=2, scratch=str(tmp_path),
        environment={"COLOUR": "blue $HOME", "API_TOKEN": "geheim-1234567"},
    )  # fmt: skip
    assert "exit code 0" in said, said
    found = [task.folder.result(number) for number in range(len(names))]
    assert found == ["blue $HOME", str(tmp_path), "geheim-1234567", "2", "/image"]
    assert "geheim" not in said


def test_apptainer_gets_them_under_names_of_its_own_before_commands_are_logged(tmp_path: Path) -> None:
    lines = script(executor(tmp_path, wrap=["apptainer", "exec", "x.sif"], environment={"A_TOKEN": "g"})).splitlines()
    line = 'export APPTAINERENV_A_TOKEN="$A_TOKEN" SINGULARITYENV_A_TOKEN="$A_TOKEN"'
    assert lines.index(line) < [word.strip() for word in lines].index("set -xe")


def test_a_job_that_is_cancelled_in_a_container_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words in front of it make it deaf to SLURM's signal at first."""
    task = Task(signal.raise_signal, [signal.SIGTERM], JobFolder(tmp_path / "jobs", 1), 0)
    said = on_one_node(tmp_path, monkeypatch, task, wrap=["env"])
    assert "exit code 143" in said, said
    assert not task.folder.has(0)
