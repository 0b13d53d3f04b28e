"""Plans and scripts without a scheduler: what is printed, what is refused, and that nothing reaches a shell unquoted."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from megabiomed.config import container, shipped
from megabiomed.config.cluster import ClusterConfig, load_cluster, parse_flags, seconds_of
from megabiomed.ground.errors import ConfigError, LaunchError, TopologyError
from megabiomed.launch.by_hand import typed_commands
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import render


def script(run_file: Path, cluster: ClusterConfig, *overrides: str, nodes: int = 1) -> str:
    (stage,) = load_stages(str(run_file), cluster, list(overrides), nodes)
    return render(stage).script


CPU = {"tasks_per_node": 2, "preflight": False}


@pytest.mark.parametrize("name", shipped.names("clusters"))
def test_every_shipped_cluster_renders_a_script_that_bash_can_parse(run_file: Path, tmp_path: Path, name: str) -> None:
    text = script(run_file, load_cluster(name), f"run_dir={tmp_path}/r")
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "CONT" not in [word for line in text.splitlines() if line.startswith("trap") for word in line.split()]


def test_a_dry_run_needs_no_scheduler_and_writes_nothing(run_file: Path, tmp_path: Path) -> None:
    words = ["submit", str(run_file), "--cluster", "cpu-test", "--nodes", "2", "--dry-run", "--sbatch", "qos=high",
             f"run_dir={tmp_path}/r", "parallel.data_parallel_size=2"]  # fmt: skip
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", *words], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "pretrain (pretrain): 2 nodes x 2 = 4 ranks" in done.stdout
    assert "#SBATCH --qos=high" in done.stdout
    assert "torchrun --nnodes=2 --nproc_per_node=2" in done.stdout
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 5400), ("10:30", 630), ("24:00:00", 86400), ("2-0", 172800), ("1-12:30", 131400), ("0-0:1:1", 61)],
)
def test_times_are_read_as_slurm_reads_them(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"time": "tomorrow"}, "is not a SLURM time"),
        ({"time": "0:30"}, "shorter than SLURM's smallest limit"),
        ({"partition": "main; rm -rf /"}, "characters that a line of a batch script cannot carry"),
        ({"sbatch": {"dependency": "afterok:1"}}, "megabiomed sets --dependency itself"),
        ({"sbatch": {"array": "0-3"}}, "job arrays are not supported"),
        ({"sbatch": {"--qos": "x"}}, "write it without dashes"),
        ({"sbatch": {"comment": "a\nb"}}, "characters that a line"),
        ({"environment": {"A B": "1"}}, "not a name of an environment variable"),
        ({"time": 630}, "write the time in quotes"),  # as YAML reads a bare 10:30
        ({"environment": {"A": True}}, r"environment\.A: Input should be a valid string, got True"),
        ({"srun": ["--ntasks=3"]}, "megabiomed sets --ntasks itself"),
        (
            {"srun": ["--container-mounts", "/data:/data"]},
            "'/data:/data' is not an option of srun; write it as one word",
        ),
        ({"gpus": 8}, "did you mean 'gpu_type'|unknown key 'gpus'"),
    ],
)
def test_a_wrong_cluster_file_is_refused_by_key(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CPU | changes))
    with pytest.raises(ConfigError, match=says):
        load_cluster(str(tmp_path / "c.yaml"))


@pytest.mark.parametrize(
    ("overrides", "cluster", "error", "says"),
    [
        (["parallel.data_parallel_size=2"], {}, TopologyError, "start 4 processes"),
        (["data.train=[{path: /nowhere}]"], {}, ConfigError, "data.train.0.path of stage pretrain does not exist: got /now"),
        (["model.init_from=/nowhere/hf"], {}, ConfigError, "model.init_from of stage pretrain does not exist"),
        (["checkpoint.resume=/nowhere"], {}, ConfigError, "checkpoint.resume of stage pretrain does not exist"),
        (["run_dir=/dev/null/run"], {}, ConfigError, "stage pretrain cannot write: got /dev/null/run; make /dev/null writ"),
        ([], {"time": "2", "grace_seconds": 300}, ConfigError, "leaves no time to train"),
        ([], {"shared_roots": ["/lustre"]}, ConfigError, "the nodes would not see the run folder"),
        (["run_dir=/tmp/with space"], {}, ConfigError, "cannot be used in an #SBATCH line"),
    ],
    ids=["geometry", "missing data", "missing weights", "missing checkpoint", "not writable", "time", "not shared",
         "space in a path"],
)  # fmt: skip
def test_a_plan_that_cannot_work_is_refused_before_anything_is_submitted(
    run_file: Path, overrides: list[str], cluster: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        script(run_file, ClusterConfig(**(CPU | cluster)), *overrides)


def test_stages_must_know_each_other_and_have_folders_of_their_own(run_file: Path, tmp_path: Path) -> None:
    def chain(*stages: dict[str, Any]) -> str:
        file = tmp_path / "chain.yaml"
        file.write_text(yaml.safe_dump({"name": "c", "stages": [{"run": str(run_file), **stage} for stage in stages]}))
        return str(file)

    cluster = ClusterConfig(**CPU)
    with pytest.raises(ConfigError, match="share a run folder"):
        load_stages(chain({"name": "a"}, {"name": "b"}), cluster, [], None)
    with pytest.raises(ConfigError, match="share a name"):
        load_stages(chain({"name": "a"}, {"name": "a", "overrides": ["name=x"]}), cluster, [], None)
    with pytest.raises(ConfigError, match="waits for a stage that does not come before it: got 'z'"):
        load_stages(chain({"name": "a", "after": ["z"]}), cluster, [], None)
    with pytest.raises(LaunchError, match="--nodes is for a single run"):
        load_stages(chain({"name": "a"}), cluster, [], 2)


def test_values_cannot_break_out_of_the_script(run_file: Path, tmp_path: Path) -> None:
    """The script is run with stand-ins for SLURM's commands only: what is tested is bash itself."""
    canary = tmp_path / "canary"
    evil = f"x'; touch {canary}; $(touch {canary}) `touch {canary}` \" \n touch {canary} #"
    folder = tmp_path / f"run;$(touch${{IFS}}{canary.name})&"
    flag = f"$(touch${{IFS}}{canary})"
    cluster = ClusterConfig.model_construct(  # without the checks that would refuse most of it
        **ClusterConfig(**CPU).model_dump()
        | {"environment": {"EVIL": evil}, "modules": [evil], "wrap": [evil], "srun": [evil], "python": Path(evil),
           "host_python": Path(evil), "scratch": Path(evil), "preflight": True, "gpus_per_node": 2}
    )  # fmt: skip
    chain = tmp_path / "chain.yaml"
    stages = [
        {"name": "run", "run": str(run_file), "overrides": [f"run_dir={folder}"]},
        {"name": "words", "command": ["generate", evil, "--prompt", evil], "time": "10"},
    ]
    chain.write_text(yaml.safe_dump({"name": "c", "stages": stages}))
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "scontrol", "module", "sleep", "hostname"):
        (tools / name).write_text("#!/bin/bash\nexit 0\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "n1",
        "SLURM_NNODES": "1",
    }
    for stage in load_stages(str(chain), cluster, [], None):
        text = render(replace(stage, cluster=cluster, sbatch={"comment": flag, "qos": flag})).script
        # The agent always answers here, so that every line of the script is reached.
        text = re.sub(r"^agent\(\) .*$", "agent() { echo 'run||'; }", text, flags=re.MULTILINE)
        (tmp_path / "job.sh").write_text(text)
        done = subprocess.run(
            ["bash", "-x", str(tmp_path / "job.sh")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "srun --ntasks-per-node" in done.stderr, done.stderr  # came to the last command
        assert not list(tmp_path.glob("canary*"))
        # In the torchrun line, too.
        (line,) = typed_commands(replace(stage, cluster=cluster))
        subprocess.run(["bash", "-c", line], cwd=tmp_path, env={"PATH": f"{tools}:/usr/bin:/bin"}, capture_output=True)
        assert not list(tmp_path.glob("canary*"))


def test_variables_of_the_batch_script_cannot_be_replaced(run_file: Path) -> None:
    """All that the script assigns, wherever it does; those of its functions are local."""
    text = script(run_file, ClusterConfig(**(CPU | {"preflight": True})), "parallel.data_parallel_size=1")
    text = re.sub(r"^\w+\(\) \{(.*\}|\n(.*\n)*?\})$", "", text, flags=re.MULTILINE)
    assigned = set(re.findall(r"(?<=[\s;])([A-Za-z_]\w*)=", re.sub(r"^#.*", "", text, flags=re.MULTILINE)))
    shared = {"PYTHONPATH", "PYTHONSAFEPATH", "PYTHONUNBUFFERED", "OMP_NUM_THREADS"}  # added to, or the user's to set
    assert {"run", "srun_pid", "MEGABIOMED_NODES"} <= assigned
    for name in {*(assigned - shared), "group_head", "IFS", "RANK", "SLURM_JOB_ID", "SLURMD_NODENAME"}:
        with pytest.raises(ValidationError, match=f"{name} belongs to the batch script"):
            ClusterConfig(environment={name: "x"})
    ClusterConfig(environment=dict.fromkeys([*shared, "PATH", "NCCL_DEBUG", "http_proxy"], "x"))


def stand_ins(folder: Path, srun: str) -> Path:
    """A folder with an srun that runs a line of bash, and a scontrol that names one host."""
    folder.mkdir()
    for name, line in (("srun", srun), ("scontrol", "echo n1")):
        (folder / name).write_text(f"#!/bin/bash\n{line}\n")
        (folder / name).chmod(0o755)
    return folder


def test_what_the_shell_of_the_submitter_holds_makes_no_rank_of_a_command(run_file: Path, tmp_path: Path) -> None:
    """Submitted from inside a job of torchrun, whose variables sbatch passes on."""
    stages = [
        {"name": "run", "run": str(run_file), "overrides": [f"run_dir={tmp_path}/r"]},
        {"name": "words", "command": ["plot", "x"]},
    ]
    (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "c", "stages": stages}))
    tools = stand_ins(tmp_path / "bin", f"env > {tmp_path}/srun.env")
    theirs = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MEGABIOMED_ERROR_FILE")
    given = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "MASTER_ADDR": "n9"}
    for stage, address in zip(load_stages(str(tmp_path / "chain.yaml"), ClusterConfig(**CPU), [], None), ("n1", None)):
        text = re.sub(r"^agent\(\) .*$", "agent() { echo 'run||'; }", render(stage).script, flags=re.MULTILINE)
        subprocess.run(["bash", "-c", text], env=given | dict.fromkeys(theirs, "7"), capture_output=True, timeout=60)
        seen = dict(line.split("=", 1) for line in (tmp_path / "srun.env").read_text().splitlines() if "=" in line)
        assert not seen.keys() & set(theirs)
        assert (seen.get("MASTER_ADDR"), "MEGABIOMED_MEETING" in seen) == (address, address is not None)


IMAGE, MOUNTS = (
    "--container-image=nvcr.io#nvidia/pytorch:25.04-py3",
    "--container-mounts=/data $(touch x):/data:ro,/home",
)
DEAF = container.wrap_words(ClusterConfig(wrap=["env"]))[:-1]
KEPT = "PYTHONPATH,PYTHONSAFEPATH,OMP_NUM_THREADS,PYTHONUNBUFFERED,TMPDIR,NCCL_DEBUG"
ENV = [f"--env={name}" for name in KEPT.split(",")]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ({"srun": [IMAGE, MOUNTS]}, [IMAGE, MOUNTS, f"--container-env={KEPT}"]),
        (
            {"srun": ["--container-env=A,TMPDIR", "--container-name=b"], "snapshot": False},
            ["--container-name=b", "--container-env=A,TMPDIR,OMP_NUM_THREADS,PYTHONUNBUFFERED,NCCL_DEBUG"],
        ),
        (
            {"wrap": ["/opt/bin/apptainer", "exec", "--nv", "--bind", "/a b:/c", "it's.sif"]},
            [*DEAF, "/opt/bin/apptainer", "exec", "--nv", "--bind", "/a b:/c", "it's.sif"],
        ),
        (
            {"wrap": ["podman", "--log-level=warn", "run", "--rm", "run"]},
            [*DEAF, "podman", "--log-level=warn", "run", "--env-host", *ENV, "--rm", "run"],
        ),
    ],
    ids=["pyxis", "pyxis with variables of its own", "apptainer", "podman"],
)
def test_a_container_is_given_the_words_of_the_cluster_file_and_the_variables_of_the_job(
    run_file: Path, tmp_path: Path, words: dict[str, Any], wanted: list[str]
) -> None:
    """Run by bash with a stand-in for srun; test_slurm_container.py runs containers."""
    cluster = ClusterConfig(
        **(CPU | words),
        scratch=Path("/local"),
        environment={"NCCL_DEBUG": "WARN $HOME"},
        python=Path("/usr/bin/python"),
        shared_roots=[tmp_path.parent],
    )
    tools = stand_ins(tmp_path / "bin", f"printf '%s\\n' \"$@\" > {tmp_path}/words; env -0 > {tmp_path}/env")
    text = script(run_file, cluster, f"run_dir={tmp_path}/r", "parallel.data_parallel_size=1")
    text = re.sub(r"^agent\(\) .*$", "agent() { echo 'run||'; }", text, flags=re.MULTILINE)
    given = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1"}
    subprocess.run(["bash", "-c", text], cwd=tmp_path, env=given, capture_output=True, timeout=60)
    said = (tmp_path / "words").read_text().splitlines()
    (front,) = (n for n, word in enumerate(said) if word.startswith("--output="))
    assert said[front + 1 : said.index("/usr/bin/python")] == wanted
    seen = dict(item.split("=", 1) for item in (tmp_path / "env").read_text().split("\0") if item)
    assert (seen["NCCL_DEBUG"], seen["TMPDIR"]) == ("WARN $HOME", "/local")
    inside = {name: seen.get(f"APPTAINERENV_{name}") for name in KEPT.split(",")}
    assert inside == {name: seen[name] if "it's.sif" in wanted else None for name in inside}


def test_a_warning_while_the_container_starts_is_left_for_the_ranks_in_a_file(run_file: Path, tmp_path: Path) -> None:
    """The script runs, with a stand-in for srun that becomes the rank; what starts a container ignores the signal."""
    tools = stand_ins(tmp_path / "bin", 'until [ "$1" = sh ]; do shift; done; exec "$@"')
    slow = (
        'kill -USR1 $PPID; for _ in {1..999}; do [ -e "$MEGABIOMED_LOGS/warned" ] && break; sleep 0.02; done; exec "$@"'
    )
    cluster = ClusterConfig(**CPU, wrap=["bash", "-c", slow, "slow"], snapshot=False)
    text = script(run_file, cluster, f"run_dir={tmp_path}/r", "parallel.data_parallel_size=1")
    agent = "agent() { if [ $1 = end ]; then echo \"done||code $4, warned: $5\"; else echo 'run||'; fi; }"
    text = re.sub(r"^agent\(\) .*$", agent, text, flags=re.MULTILINE)
    code = "from megabiomed.processes.signals import StopFlag; print(StopFlag().mine().name)"
    text, count = re.subn(r"^    -m .* &$", f"    -c {shlex.quote(code)} &", text, flags=re.MULTILINE)
    assert count == 1
    given = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_PROCID": "0"}
    (tmp_path / "r" / "slurm").mkdir(parents=True)
    done = subprocess.run(["bash", "-c", text], cwd=tmp_path, env=given, capture_output=True, text=True, timeout=60)
    assert "STOP\n" in done.stdout, done.stdout + done.stderr
    assert "code 0, warned: yes" in done.stdout


@pytest.mark.parametrize("flag", ["qos=a b", "qos=x\ny", "wrap=touch x", "Q=1", "--signal=USR1", "cpus-per-task=4"])
def test_an_sbatch_option_that_no_script_can_carry_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match="--sbatch: "):
        parse_flags([flag])


def test_sbatch_options_win_over_the_keys_of_the_cluster_file(run_file: Path) -> None:
    cluster = ClusterConfig(
        **(CPU | {"partition": "main", "account": "a", "sbatch": {"partition": "low", "comment": "hi"}})
    )
    lines = script(run_file, cluster).splitlines()
    assert [line for line in lines if line.startswith("#SBATCH --partition")] == ["#SBATCH --partition=low"]
    assert "#SBATCH --account=a" in lines
    assert "#SBATCH --comment=hi" in lines
    assert parse_flags(["--exclusive", "partition=high"]) == {"exclusive": True, "partition": "high"}


def test_the_command_without_slurm_names_every_host_setting(run_file: Path, tmp_path: Path) -> None:
    cluster = ClusterConfig(**(CPU | {"environment": {"A": "b c"}}))
    (stage,) = load_stages(str(run_file), cluster, [f"run_dir={tmp_path}/r", "parallel.data_parallel_size=2"], 2)
    (said,) = typed_commands(stage)
    assert said.startswith("env 'A=b c' torchrun --nnodes=2 --nproc_per_node=2 --node_rank=\"$NODE_RANK\"")
    assert said.endswith(f"-m megabiomed.cli pretrain {run_file} parallel.data_parallel_size=2 run_dir={tmp_path}/r")
