"""Chains of every kind of stage: what they become, and what is refused before anything is submitted."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import typer
import yaml
from typer.main import get_command

from megabiomed.cli import app
from megabiomed.config import shipped, to_yaml
from megabiomed.config.cluster import ClusterConfig
from megabiomed.ground.errors import ConfigError, TopologyError
from megabiomed.launch.again import unfinished
from megabiomed.launch.cli_submit import _plan
from megabiomed.launch.commands import missing, parse_command
from megabiomed.launch.records import renew
from megabiomed.launch.snapshot import take
from megabiomed.launch.stage import ChainStage, load_stages
from megabiomed.launch.submit import render
from megabiomed.runs.kinds import part_run

CPU = ClusterConfig(tasks_per_node=2, preflight=False)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Reads a chain of these stages, with tmp_path as the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "split").mkdir()

    def of(*stages: dict[str, Any], cluster: ClusterConfig = CPU) -> list[ChainStage]:
        (tmp_path / "chain.yaml").write_text(yaml.safe_dump({"name": "c", "stages": list(stages)}))
        return load_stages("chain.yaml", cluster, [], None)

    return of


def align(**changes: Any) -> dict[str, Any]:
    """A stage with the shipped alignment demo on one data split."""
    words = [
        "align.train=[{path: split}]",
        "align.validation=split",
        "align.replay=split",
        "align.language_model=split",
    ]
    return {"name": "align", "run": "align-demo", "overrides": words} | changes


PLANS = {
    "biomedgpt": [
        "corpus (command): 1 node x 1 = 1 ranks, 2-00:00:00",
        "molecules (command): 1 node x 1 = 1 ranks, 08:00:00",
        "proteins (command): 1 node x 1 = 1 ranks, 08:00:00",
        "pretrain (pretrain): 12 nodes x 8 = 96 ranks, 24:00:00 after corpus",
        "adaptors (align): 1 node x 8 = 8 ranks, 24:00:00 after pretrain, molecules, proteins",
        "encoders (align): 4 nodes x 8 = 32 ranks, 24:00:00 after adaptors",
        "language-model (align): 4 nodes x 8 = 32 ranks, 24:00:00 after encoders",
        "evaluate (command): 1 node x 1 = 1 ranks, 08:00:00 after language-model",
        "questions (command): 1 node x 1 = 1 ranks, 02:00:00",
        "medmcqa (finetune): 1 node x 8 = 8 ranks, 24:00:00 after pretrain, questions",
        "medmcqa-score (command): 1 node x 1 = 1 ranks, 04:00:00 after medmcqa",
    ],
    "biomedgpt-lm-qa": [
        "pretrain (pretrain): 12 nodes x 8 = 96 ranks, 24:00:00",
        "finetune (finetune): 1 node x 8 = 8 ranks, 04:00:00 after pretrain",
        "evaluate (command): 1 node x 1 = 1 ranks, 02:00:00 after finetune",
    ],
    "biomedgpt-llama3.1-8b": [
        "corpus (command): 1 node x 1 = 1 ranks, 2-00:00:00",
        "pretrain (pretrain): 8 nodes x 8 = 64 ranks, 24:00:00 after corpus",
        "evaluate (command): 1 node x 1 = 1 ranks, 02:00:00 after pretrain",
    ],
    "biomedgpt-r1": [
        "molecules (command): 1 node x 1 = 1 ranks, 08:00:00",
        "proteins (command): 1 node x 1 = 1 ranks, 08:00:00",
        "alignment (align): 2 nodes x 8 = 16 ranks, 24:00:00 after molecules, proteins",
        "reasoning (align): 2 nodes x 8 = 16 ranks, 24:00:00 after alignment",
        "evaluate (command): 1 node x 1 = 1 ranks, 08:00:00 after reasoning",
    ],
}


def started(script: str) -> str:
    """The last line of the command that starts the ranks."""
    return next(line.strip() for line in reversed(script.splitlines()) if line.strip().startswith("-m "))


@pytest.mark.parametrize("name", shipped.names("chains"))
def test_every_shipped_chain_is_planned_by_a_dry_run_without_a_scheduler(tmp_path: Path, name: str) -> None:
    for folder in (
        "Llama-2-7b-chat-hf",
        "Llama-3.1-8B",
        "DeepSeek-R1-Distill-Qwen-14B",
        "corpus/general-llama3/train",
        "corpus/s2orc/train",
        "corpus/s2orc/validation",
        "pubmedqa",
    ):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pubmedqa" / "ori_pqal.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", "submit", name, "--cluster", "h100", "--dry-run"],
        cwd=tmp_path,
        env={**os.environ, "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if " ranks, " in line] == PLANS[name]
    for script in done.stdout.split("\n--- ")[1:]:
        text = script.split("\n", 1)[1].split("\n---")[0]
        assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True).stderr == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_an_alignment_becomes_a_job_for_each_stage_on_its_own_worker(load: Any, tmp_path: Path) -> None:
    stages = load(align(), {"name": "score", "command": ["validate", "x"], "after": ["align"]})
    first, second, third, score = stages
    assert [stage.name for stage in stages[:3]] == ["align-s1-adaptors", "align-s2-encoders", "align-s3-language-model"]
    assert [first.after, second.after, third.after] == [(), (first.name,), (second.name,)]
    assert score.after == (third.name,)
    assert second.folder == tmp_path / "runs" / "align-demo" / "s2-encoders"
    assert second.controls == [second.folder, second.folder.parent]
    last = started(render(second).script)
    assert last == f"-m megabiomed.runs.worker {second.folder}/slurm/config.yaml s2-encoders &"
    assert "MASTER_ADDR=" not in render(score).script  # alone: it must not think that it was started as a rank


def test_fine_tuning_starts_from_the_run_of_the_stage_that_it_waits_for(load: Any, tmp_path: Path) -> None:
    (tmp_path / "q.json").touch()
    words = ["finetune.train=[{path: q.json}]", "finetune.replay=[{path: split}]", "finetune.start_from=runs/demo"]
    first = {"name": "lm", "run": "demo", "overrides": ["data.train=[{path: split}]", "data.validation=split"]}
    tune = {"name": "tune", "run": "finetune-demo", "overrides": [*words, "lora.rank=8"]}
    _, stage = load(first, tune)
    assert (stage.after, stage.config.lora.rank) == (("lm",), 8)
    last = started(render(stage).script)
    assert last == f"-m megabiomed.runs.worker {stage.folder}/slurm/config.yaml &"
    with pytest.raises(ConfigError, match=r"finetune\.start_from of stage tune does not exist"):
        load(first, tune | {"after": []})


def test_stages_of_an_alignment_have_nodes_and_topologies_of_their_own(load: Any) -> None:
    wide = [*align()["overrides"], "parallel.tensor_parallel_size=1", "data.micro_batch_size=2"]
    one, two = load(
        align(stage="s1-adaptors"), align(name="wide", stage="s2-encoders", nodes=2, time="2-0", overrides=wide)
    )
    assert (one.ranks, two.ranks, two.time) == (2, 4, "2-0")
    with pytest.raises(ConfigError, match=r"starts from s1-adaptors, which is not finished.*after: none"):
        load(align(stage="s2-encoders"))
    with pytest.raises(ConfigError, match="has no such stage: got 's9', expected s1-adaptors"):
        load(align(stage="s9"))


def test_a_stage_reads_what_a_stage_that_it_waits_for_makes(load: Any) -> None:
    prepare = {"name": "data", "command": ["dataset", "build", "x.json", "--output", "new"], "makes": ["new"]}
    words = [word for word in align()["overrides"] if "train" not in word] + ["align.train=[{path: new/train}]"]
    assert len(load(prepare, align(overrides=words))) == 4
    with pytest.raises(
        ConfigError, match=r"align.train.0.path of stage align-s1-adaptors does not exist: got new/train"
    ):
        load(prepare, align(overrides=words, after=[]))


def test_patterns_of_files_are_expanded_once_and_not_by_a_shell(load: Any, tmp_path: Path) -> None:
    for name in ("a.gz", "b $(x).gz"):
        (tmp_path / name).touch()
    (stage,) = load({"name": "data", "command": ["corpus", "build", "*.gz", "no*ne"]})
    assert stage.arguments == ("corpus", "build", "a.gz", "b $(x).gz", "no*ne")
    assert "corpus build a.gz 'b $(x).gz' 'no*ne' &" in render(stage).script


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ({}, "needs either `run:` or `command:`"),
        ({"run": "demo", "command": ["plot"]}, "needs either `run:` or `command:`"),
        ({"command": ["plot", "x"], "nodes": 2}, "is a command, one process on one node: remove nodes"),
        ({"command": ["plot", "x"], "overrides": ["a=b"]}, "remove overrides"),
        ({"run": "demo", "makes": ["x"]}, "remove makes"),
        ({"run": "nosuch"}, "no run configuration of that name"),
        ({"command": ["plot", "x"], "cluster": "nosuch"}, "no cluster configuration of that name"),
        ({"command": ["plot", "x"], "makes": ["/dev/null/x"]}, "cannot write"),
    ],
)
def test_a_stage_that_means_nothing_is_refused(load: Any, stage: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load({"name": "s", **stage})


def test_a_command_that_megabiomed_would_not_understand_is_refused() -> None:
    root = cast(Any, get_command(app))
    for words, says in [
        (["plott", "x"], "No such command 'plott'"),
        (["corpus", "build", "x", "--output", "y", "--nosuch"], "No such option"),
        (["corpus", "build"], "Missing argument|Missing option"),
        (["corpus"], "Missing command"),
        (["plot", "x", "--help"], "only prints help"),
        (["logs", "x", "--rank", "-1"], "Invalid value for '--rank'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            parse_command(typer.Context(root, info_name="megabiomed"), words)
    parse_command(typer.Context(root, info_name="megabiomed"), ["corpus", "generate", "x", "--papers", "3"])


def test_a_snapshot_of_the_code_is_whole_and_comes_before_the_installation(tmp_path: Path) -> None:
    take(tmp_path)
    take(tmp_path)  # again, as when a run is submitted anew
    names = "megabiomed", "megabiomed.launch.agent", "megabiomed.kernels.cli"
    script = f"import importlib; [print(importlib.import_module(name).__file__) for name in {names}]"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}  # as the batch script
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert [Path(line).is_relative_to(tmp_path) for line in done.stdout.split()] == [True] * 3, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code"]


def finish(stage: ChainStage, claim: int = 1, **inputs: int) -> None:
    """A stage that was submitted as it is, and finished."""
    (stage.folder / "slurm").mkdir(parents=True, exist_ok=True)
    (stage.folder / "events.jsonl").write_text(json.dumps({"event": "finished", "claim": claim}) + "\n")
    (stage.folder / "slurm" / "job.json").write_text(json.dumps({"words": list(stage.typed)}))
    before = {str(folder): 1 for folder in stage.before} | inputs
    begin = {"kind": "begin", "incarnation": "7.0.1", "claim": claim, "inputs": before}
    (stage.folder / "slurm" / "incarnations.jsonl").write_text(json.dumps(begin) + "\n")
    if stage.config is not None:
        (stage.folder / "config.yaml").write_text(to_yaml(part_run(stage.config, stage.part)))


SCORE = {"name": "score", "command": ["plot", "x"]}


def chain(*words: str, command: str = "x") -> list[dict[str, Any]]:
    """A part of an alignment, and a command that waits for it."""
    part = align(stage="s1-adaptors", overrides=[*align()["overrides"], *words])
    return [part, SCORE | {"command": ["plot", command]}]


def test_what_is_finished_is_not_done_again_unless_it_changed(load: Any) -> None:
    def todo(*words: str, command: str = "x") -> list[str]:
        return [stage.name for stage in unfinished(load(*chain(*words, command=command)))]

    one, two = load(*chain())
    assert todo() == ["align", "score"]
    finish(two)
    (two.folder / "slurm" / "incarnations.jsonl").unlink()  # made by hand, or by an earlier release
    assert todo() == ["align"]  # nothing was made from a stage that never finished
    finish(one)
    assert todo() == []
    assert todo("kernels.loss=auto", "train.log_every=7", "data.micro_batch_size=2") == []
    assert todo(command="y") == ["score"]


def test_a_stage_that_runs_again_takes_along_what_was_made_from_it(load: Any) -> None:
    one, two = load(*chain())
    finish(one)
    finish(two)
    longer = load(*chain("align.stages.0.steps=70"))
    assert [stage.name for stage in unfinished(longer)] == [stage.name for stage in longer]
    finish(one, claim=2)  # it ran again by itself
    assert unfinished(load(*chain())) == [two]
    finish(two, **{str(one.folder): 2})
    assert unfinished(load(*chain())) == []
    renew(one.folder)
    assert len(unfinished(load(*chain()))) == 2


def test_a_finished_training_is_not_trained_anew_in_silence(load: Any) -> None:
    first, second = SCORE, align(stage="s1-adaptors")
    one, two = load(first, second)
    finish(one)
    finish(two)
    assert unfinished(load(first, second)) == []
    with pytest.raises(ConfigError, match=r"is finished already in .*: got seed: 1234 -> 5; give it another run_dir"):
        unfinished(load(first, align(stage="s1-adaptors", overrides=[*align()["overrides"], "seed=5"])))
    with pytest.raises(
        ConfigError, match=r"would not be trained again: got .*score runs again; give it another run_dir"
    ):
        unfinished(load(first | {"command": ["plot", "y"]}, second))


def test_nodes_of_another_kind_get_what_the_others_get_unless_they_say_otherwise(load: Any) -> None:
    cluster = ClusterConfig(
        partition="main",
        account="bio",
        gpus_per_node=2,
        gpu_type="h100",
        cpus_per_task=4,
        memory="0",
        time="10:00:00",
        sbatch={"qos": "high"},
    )
    parts = [{"nodes": 1, "ranks_per_node": 2, "gpus_per_node": 1, "sbatch": {"partition": "other"}}]
    (stage,) = load(
        align(stage="s1-adaptors", components=parts, overrides=[*align()["overrides"], "data.micro_batch_size=2"]),
        cluster=cluster,
    )
    script = render(stage).script
    first, second = script.split("#SBATCH hetjob\n")
    for line in ("--account=bio", "--mem=0", "--qos=high", "--cpus-per-task=4", "--time=10:00:00"):
        assert line in first
        assert line in second
    assert "--gres=gpu:h100:2" in first
    assert "--gres=gpu:1" in second.split("# Rendered")[0]
    assert "--partition=other" in second
    assert "--partition=main" not in second
    assert 'launch.preflight "$run" "$incarnation" 0 2 h100' in script
    assert 'launch.preflight "$run" "$incarnation" 1 1 -' in script
    assert 'group_head=$(scontrol show hostnames "$SLURM_JOB_NODELIST_HET_GROUP_1"' in script
    ranks = script.split("\n  srun ")[-1]
    assert re.findall(r"--het-group=(\d) \$overlap \\\n +--cpus-per-task=(\d)", ranks) == [("0", "4"), ("1", "4")]
    assert "OMP_NUM_THREADS" not in ranks


def test_encoder_ranks_take_a_component_of_their_own_with_other_cores(load: Any) -> None:
    words = [*align()["overrides"], "align.dedicated_encoder_ranks=2"]
    part = {"nodes": 1, "ranks_per_node": 2, "cpus_per_task": 6}
    (stage,) = load(align(stage="s1-adaptors", components=[part], overrides=words))
    script = render(stage).script
    assert "#SBATCH --cpus-per-task=6" in script.split("#SBATCH hetjob\n")[1]
    ranks = script.split("\n  srun ")[-1]
    assert re.findall(r"--het-group=(\d) \$overlap \\\n +--cpus-per-task=(\d)", ranks) == [("0", "1"), ("1", "6")]
    assert ranks.count('\n    env OMP_NUM_THREADS="${threads:-6}" "$python"') == 1
    assert "= 4 ranks (2 with encoders alone)" in _plan(stage)[0]
    with pytest.raises(TopologyError, match=r"align\.dedicated_encoder_ranks=4"):
        load(align(stage="s1-adaptors", components=[part | {"ranks_per_node": 4}], overrides=words))
    with pytest.raises(ConfigError, match="with and without GPUs"):
        load(
            align(stage="s1-adaptors", components=[part], overrides=words),
            cluster=CPU.model_copy(update={"gpus_per_node": 2}),
        )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["corpus", "build", "nothere*.jsonl.gz", "--output", "c"], "inputs of stage s match no file: got nothere"),
        (
            ["corpus", "build", "made", "--output", "c", "--tokenizer", "no.model"],
            "tokenizer of stage s does not exist",
        ),
        (["corpus", "build", "made/part", "there", "--output", "c"], None),
        (["validate", "runs/none"], "run of stage s does not exist"),
        (["plot", "made", "--output", "new.png"], None),
    ],
)
def test_what_a_command_reads_is_there_or_made_by_a_stage_before_it(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], says: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").touch()
    parse = partial(parse_command, typer.Context(cast(Any, get_command(app)), info_name="megabiomed"))
    stages = load({"name": "m", "command": ["plot", "there"], "makes": ["made"]}, {"name": "s", "command": words})
    found = [str(error) for error in missing(stages, parse)]
    assert [says in text for text in found] == [True] if says else not found, found


def test_an_interpreter_that_no_node_could_run_is_found_before_a_node_is_blamed(load: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    (tmp_path / "empty").chmod(0o755)

    def said(**keys: Any) -> str:
        stages = load({"name": "s", "command": ["plot", "x"]}, cluster=CPU.model_copy(update=keys))
        return " ".join(str(error) for error in missing(stages, lambda words: {}))

    assert said() == said(host_python=Path(sys.executable)) == ""
    typo = Path("/opt/nope/bin/python")
    assert "host_python of stage s cannot be run: got /opt/nope/bin/python" in said(host_python=typo)
    assert "host_python of stage s cannot be run" in said(python=typo)
    assert "python of stage s cannot be run" in said(python=typo, host_python=Path(sys.executable))
    assert said(python=typo, host_python=Path(sys.executable), wrap=["env", "apptainer", "exec", "i.sif"]) == ""
    assert "the first word of `wrap` of stage s cannot be run: got nope" in said(wrap=["nope", "i.sif"])
    assert said(wrap=["nope", "i.sif"], modules=["nope"]) == ""
    assert said(python=Path("python3.99"), modules=["python"]) == ""
    assert "cannot run the batch script's decisions" in said(host_python=tmp_path / "empty")
