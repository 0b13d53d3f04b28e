"""Credentials of a submission reach its job by the environment of sbatch; no plan, script, record or copy holds them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.scheduling import QUEUE, program
from typer.testing import CliRunner

from megabiomed.cli import app
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import ConfigError, LaunchError
from megabiomed.launch import records, snapshot
from megabiomed.launch.control import resubmit
from megabiomed.launch.stage import load_stages
from megabiomed.launch.submit import render

PASSWORD, TOKEN = "Pass-7Qzw", "hf_9VbKLmn"
TRACKER = f"tracking.mlflow_uri=http://user:{PASSWORD}@h:5000"
CLUSTER = {
    "tasks_per_node": 2,
    "environment": {"HF_TOKEN": TOKEN, "https_proxy": f"http://u:{PASSWORD}@p:3128", "NCCL_IB_PKEY": "7"},
}


def words_in(folder: Path) -> list[Path]:
    """Files that hold a credential."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(word.encode() in file.read_bytes() for word in (PASSWORD, TOKEN))]


def test_a_submission_hands_credentials_to_its_job_and_shows_and_stores_none(
    run_file: Path, tools: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = queue(), tmp_path / "r"
    cluster = tmp_path / "cluster.yaml"
    got = tmp_path / "of_the_job"
    remember = f'echo "$HF_TOKEN $https_proxy ${{MLFLOW_TRACKING_URI:-}}" > {got}'
    program(tools, "sbatch", QUEUE.format(base=base, before=remember, after=":"))
    cluster.write_text(yaml.safe_dump(CLUSTER))
    # A checkout's own folder of configurations is part of the package that is copied.
    monkeypatch.setattr(snapshot, "_place", lambda package: _package_with_own_files(tmp_path / "package"))
    typed = ["submit", str(run_file), "--cluster", str(cluster), f"run_dir={run}", TRACKER]

    def say(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    said = say(*typed, "--dry-run") + say(*typed) + say("status", str(run), "--json")
    assert "export NCCL_IB_PKEY=7" in said
    assert [word for word in (PASSWORD, TOKEN) if word in said] == []
    assert got.read_text().split() == [TOKEN, f"http://u:{PASSWORD}@p:3128", TRACKER.partition("=")[2]]
    assert words_in(run) == []
    copied = run / "slurm/code/megabiomed/configs"
    assert "http://***@h" in (copied / "runs/mine.yaml").read_text()
    assert not (copied / "clusters").exists()

    # Nothing can submit the stored script with an empty password.
    (base / "7").write_text(f"FAILED|{run / 'slurm/job.sh'}")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("https_proxy", "http://u:p@p:3128")
    with pytest.raises(LaunchError, match="needs credentials, which are stored nowhere: got HF_TOKEN not set"):
        list(resubmit(run, "this", dry_run=True))
    monkeypatch.setenv("HF_TOKEN", "hf_again")
    assert list(resubmit(run, "this", dry_run=False)) == ["submitted: pretrain: job 8"]
    assert got.read_text().split()[0] == "hf_again"
    assert records.read_job(run)["secrets"] == ["HF_TOKEN", "https_proxy"]


def _package_with_own_files(folder: Path) -> Path:
    for name, text in {
        "clusters": f"environment: {{my_token: {TOKEN}}}",
        "runs": f"uri: http://u:{PASSWORD}@h",
    }.items():
        (folder / "configs" / name).mkdir(parents=True, exist_ok=True)
        (folder / "configs" / name / "mine.yaml").write_text(text + "\n")
    return folder


def test_a_job_without_its_credentials_says_so(run_file: Path, tmp_path: Path) -> None:
    (stage,) = load_stages(str(run_file), ClusterConfig.model_validate(CLUSTER), [f"run_dir={tmp_path / 'r'}"], 1)
    lines = render(stage).script.splitlines()
    ours = "\n".join(["say() { echo $*; }", *(line for line in lines if "HF_TOKEN" in line), "echo got $HF_TOKEN"])
    done = subprocess.run(["bash", "-uc", ours], env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True)
    assert done.stdout == "HF_TOKEN is not set: export it and submit again, if the job needs it\ngot\n", done.stderr
    given = {"PATH": "/bin:/usr/bin", "HF_TOKEN": "a b"}
    assert subprocess.run(["bash", "-uc", ours], env=given, capture_output=True, text=True).stdout == "got a b\n"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"wrap": ["env", f"HF_TOKEN={TOKEN}"]}, r"names a password, .*: got HF_TOKEN=\*\*\*; leave it out"),
        ({"srun": [f"--container-image=docker://u:{PASSWORD}@r#i"]}, r"names a password, .*: got .*://\*\*\*@r#i"),
        ({"sbatch": {"export": f"ALL,HF_TOKEN={TOKEN}"}}, r"names a password, .*: got export=ALL,HF_TOKEN=\*\*\*"),
        ({"sbatch": {"export": "NONE"}}, "would not get the credentials that it needs: got HF_TOKEN, https_proxy with"),
    ],
)
def test_credentials_that_a_script_would_hold_or_lose_are_refused(
    run_file: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    cluster = ClusterConfig.model_validate(CLUSTER | changes)
    with pytest.raises(ConfigError, match=says) as caught:
        load_stages(str(run_file), cluster, [f"run_dir={tmp_path / 'r'}"], 1)
    assert not [word for word in (PASSWORD, TOKEN) if word in str(caught.value)]
