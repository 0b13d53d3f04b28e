"""A corpus that a SLURM cluster builds: the bytes of one process, whatever happens; a run trains on it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import image
from support.operator import Operator
from support.runs import RUN

from megabiomed.corpus.build import BuildOptions, build_corpus
from megabiomed.corpus.generate import write_records
from megabiomed.data.store import TokenStore

pytest.importorskip("datatrove")
pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1800)]
SHARDS, PAPERS = 4, 40
STORE = ("tokens.bin", "tokens.idx", "documents.jsonl")


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"shard{number}.jsonl.gz" for number in range(SHARDS)]
    for number, file in enumerate(files):
        write_records(file, PAPERS, number)
    return files


def bytes_of(corpus: Path) -> list[bytes]:
    stores = [(corpus / split / name).read_bytes() for split in ("train", "validation") for name in STORE]
    return [*stores, (corpus / "tokenizer" / "tokenizer.model").read_bytes()]


def test_nodes_build_the_same_bytes_after_a_power_cut_and_a_killed_command_and_a_run_reads_them(
    operator: Operator, shards: list[Path], tmp_path: Path
) -> None:
    # In a container each, where one can be had: the words and variables of a run's ranks.
    held = ["bwrap", "--unshare-pid", "--die-with-parent", "--dev-bind", "/", "/", "--proc", "/proc"]
    operator.configure(tasks_per_node=1, wrap=[] if image.missing() else held)
    common = ["--vocab-size", "600", "--validation-fraction", "0.1", "--near-dedup"]
    build = ["corpus", "build", *map(str, shards), "--output", "c", *common]
    on = ["--on", "slurm", "--cluster", str(operator.profile)]
    # The nodes of the test declare no memory, as those of a cluster that does not track it.
    said = operator.type(*build, *on, code=2)
    assert "the scheduler refuses the jobs of the build" in said
    assert "(RealMemory in slurm.conf): pass a smaller --job-memory, or --job-memory 0" in " ".join(said.split())
    on += ["--job-memory", "0"]

    words = [sys.executable, "-m", "megabiomed.cli", *build, *on]
    first = subprocess.Popen(words, env=operator.cluster.environment, cwd=tmp_path, start_new_session=True)
    jobs = tmp_path / ".c.building" / "jobs"
    operator.until(lambda: list(jobs.glob("clean_shard-*/datatrove/logs/task_*.log")), tmp_path)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    queue = operator.cluster.run("squeue", "--noheader", "--states=R", "--format=%N").split()
    for node in queue[:1]:
        operator.cluster.power_off(node)
    said = operator.type(*build, *on)
    assert "documents" in said

    files = [tmp_path / shard.name for shard in shards]
    build_corpus(
        BuildOptions(files, tmp_path / "alone", vocab_size=600, validation_fraction=0.1, near_dedup=True, workers=1)
    )
    assert bytes_of(tmp_path / "c") == bytes_of(tmp_path / "alone")
    assert not list(tmp_path.glob(".c.*"))

    run = tmp_path / "trained.yaml"
    run.write_text(RUN.replace("CORPUS", str(tmp_path / "c")))
    operator.type("pretrain", run, f"run_dir={tmp_path / 'run'}", "train.steps=3", "checkpoint.save_every=0")
    traced = operator.type("data", "trace", tmp_path / "run" / "config.yaml", "--step", "2")
    rows = map(json.loads, (tmp_path / "c" / "train" / "documents.jsonl").read_text().splitlines())
    assert any(row["paper_id"] in traced for row in rows)
    assert TokenStore.open(tmp_path / "c" / "train").num_tokens > 0
    shutil.rmtree(tmp_path / "run")
