"""Ranks of a real SLURM read their nodes' own copies, and nothing of what they compute depends on it."""

from __future__ import annotations

import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import image
from support.operator import SHORT, Operator, run_words
from support.reference import Reference

from megabiomed.launch import records
from megabiomed.launch.stage_in.sources import source_of

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(900)]
NODES = ("n1", "n2")
_SHM = Path("/dev/shm")  # the one place of which each node of this cluster has its own


@pytest.fixture
def folder(operator: Operator, tmp_path: Path) -> Iterator[Path]:
    """A folder on each of two nodes; gone afterwards, with what filled its disk."""
    found = _SHM / f"stage-{tmp_path.name}"
    yield found
    on(operator, ",".join(NODES), "rm", "-rf", f"{found}", f"{_SHM}/full")


def on(operator: Operator, nodes: str, *words: str) -> None:
    operator.cluster.run(
        "srun", f"--nodelist={nodes}", "--ntasks-per-node=1", f"--nodes={nodes.count(',') + 1}", *words
    )


def notes(run: Path, start: int) -> dict[str, dict[str, Any]]:
    """What the nodes of a start noted, by node."""
    begins = [record for record in records.history(run) if record["kind"] == "begin"]
    files = (run / "logs" / begins[start]["incarnation"] / "staged").glob("[!.]*.json")
    return {file.stem: json.loads(file.read_text()) for file in files}


def stores_in_memory(run: Path) -> set[str]:
    """The token files that the running ranks have mapped."""
    found = set()
    for process in psutil.process_iter():
        try:
            if ".worker" in " ".join(words := process.cmdline()) and any(str(run) in word for word in words):
                found |= {area.path for area in process.memory_maps() if area.path.endswith("tokens.bin")}
        except psutil.Error:
            continue
    return found


def test_copies_are_read_and_used_again_and_losses_are_those_of_the_shared_files(
    operator: Operator, tmp_path: Path, reference: Reference, folder: Path
) -> None:
    run = tmp_path / "run"
    operator.configure(stage_in={"folder": str(folder), "max_size": "500 MB"})
    words = run_words(run, SHORT, "checkpoint.save_every=2", "train.log_every=1")
    planned = operator.type(
        "submit", operator.run_file, "--cluster", operator.profile, "--nodes", 2, *words, "--dry-run"
    )
    assert f"on each node to {folder}, at most 500 MB: data.train.0.path " in planned
    (job,) = operator.submit(None, *words, "--sbatch", f"nodelist={','.join(NODES)}").values()
    operator.until(lambda: operator.step(run) >= 3, run)
    operator.kill_rank(run, 3, signal.SIGSTOP)
    mapped = stores_in_memory(run)
    assert mapped
    assert all(path.startswith(f"{folder}/") for path in mapped), mapped
    assert "staged on 2 of 2 nodes" in operator.type("status", run)
    operator.kill_rank(run, 3)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "0"), operator.logs(run)
    operator.ends_as(run, reference, SHORT)
    first, second = notes(run, 0), notes(run, 1)
    assert sorted(first) == sorted(second) == list(NODES)
    copies = [[copy["reused"] for note in start.values() for copy in note["copies"]] for start in (first, second)]
    assert copies == [[False] * 4, [True] * 4]
    log = (run / "slurm" / "job.log").read_text()
    assert log.count("staged in: 2 of 2 nodes read ") == 2
    assert log.count("all of it there already") == 1
    # The records of the run know the shared paths alone.
    kept = [file for file in run.rglob("*") if file.is_file() and file.suffix in (".yaml", ".json", ".jsonl", ".html")]
    naming = [file.relative_to(run).parts[0] for file in kept if str(folder) in file.read_text(errors="replace")]
    assert set(naming) <= {"slurm", "logs"}


def test_a_node_whose_disk_is_full_reads_the_shared_files(
    operator: Operator, tmp_path: Path, reference: Reference, folder: Path
) -> None:
    run = tmp_path / "run"
    operator.configure(stage_in={"folder": str(folder)})
    on(operator, "n2", "bash", "-c", f"dd if=/dev/zero of={_SHM}/full bs=1M count=2000 2> /dev/null || true")
    words = run_words(run, SHORT, "--sbatch", f"nodelist={','.join(NODES)}")
    (job,) = operator.submit(None, *words).values()
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, SHORT)
    log = (run / "slurm" / "job.log").read_text()
    assert "staged in: 1 of 2 nodes read " in log
    assert "staged in: n2 read the shared storage: data.train.0.path: no room in " in log
    staged = operator.status(run)[0]["staged"]
    assert (staged["nodes"], staged["local"], list(staged["shared"])) == (2, 1, ["n2"])


def test_a_warning_ends_the_copying_and_the_next_start_uses_what_is_there(
    operator: Operator, tmp_path: Path, reference: Reference, corpus: Path
) -> None:
    run, folder = tmp_path / "run", tmp_path / "copies"  # the nodes share it here, as two jobs share that of a node
    operator.configure(stage_in={"folder": str(folder)})
    folder.mkdir(mode=0o700)
    source = source_of(corpus / "train", "data")
    assert source is not None
    with (folder / f"{source.ident}.lock").open("w") as copying:
        fcntl.flock(copying, fcntl.LOCK_EX)  # as somebody who copies it
        (job,) = operator.submit(None, *run_words(run, SHORT)).values()
        # Told by each node when the other store is copied.
        finished = '"unfinished": [\n  "data.train.0.path"\n ]'
        operator.until(
            lambda: sum(finished in note.read_text() for note in run.glob("logs/*/staged/n*.json")) == 2, run
        )
        assert "copying to the nodes" in operator.type("status", run)
        operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
        operator.until(lambda: operator.cluster.job(job)["Restarts"] == "1", run, 60)
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, SHORT)
    assert "failed first" not in (run / "slurm" / "job.log").read_text()
    assert [note["unfinished"] for start in (0, 1) for note in notes(run, start).values()] == [
        ["data.train.0.path"], ["data.train.0.path"], [], [],
    ]  # fmt: skip
    reused = [(copy["key"], copy["reused"]) for note in notes(run, 1).values() for copy in note["copies"]]
    assert sorted(reused) == [("data.train.0.path", False), ("data.train.0.path", True)] + 2 * [
        ("data.validation", True)
    ]


def test_copies_that_each_container_has_for_itself_are_told_by_status(
    operator: Operator, tmp_path: Path, reference: Reference, folder: Path
) -> None:
    if reason := image.missing():
        pytest.skip(reason)
    run = tmp_path / "run"
    alone = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--tmpfs", str(folder)]
    operator.configure(wrap=alone, host_python=sys.executable, stage_in={"folder": str(folder / "copies")})
    (job,) = operator.submit(None, *run_words(run, SHORT, "--sbatch", f"nodelist={','.join(NODES)}")).values()
    operator.until(lambda: operator.step(run) >= 3, run)
    with operator.frozen(run):
        mapped = stores_in_memory(run)
        found = operator.status(run)[0]["staged"]
    assert mapped
    assert not [path for path in mapped if path.startswith(f"{folder}/")]
    assert (found["nodes"], found["local"], sorted(found["shared"])) == (2, 0, list(NODES))
    assert all("each container has such a folder for itself" in said for (said,) in found["shared"].values())
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, SHORT)
    assert "staged in: 2 of 2 nodes read " in (run / "slurm" / "job.log").read_text()
