"""Ranks in containers on a real SLURM: files of an image, stops and restarts, and the losses of a run outside."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from support import image
from support.operator import SHORT, Operator, run_words
from support.reference import Reference

from megabiomed.launch import records
from megabiomed.processes.signals import WARNED

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture
def root(operator: Operator, tmp_path: Path) -> Path:
    """The files of an image."""
    if reason := image.missing():
        pytest.skip(reason)
    return image.make(tmp_path / "image")


def inside(operator: Operator, root: Path, *seen: Path, **changes: Any) -> None:
    """Write a cluster file by which ranks run in the image, where these folders are visible."""
    bound = [word for path in seen for word in ("--bind", str(path), str(path))]
    operator.configure(
        wrap=image.words(root, *bound), python=str(image.PYTHON), host_python=sys.executable, preflight=True, **changes
    )


def rank_of(run: Path, rank: int) -> psutil.Process | None:
    """The process of a rank, seen from outside."""
    for process in psutil.process_iter():
        try:
            words = " ".join(process.cmdline()) if process.name().startswith("python") else ""
            if ".worker" in words and str(run) in words and process.environ().get("SLURM_PROCID") == str(rank):
                return process
        except psutil.Error:
            continue
    return None


def stands_still(operator: Operator, run: Path, count: int) -> None:
    """The ranks of so many starts have trained; those of the last one stand still."""
    operator.until(lambda: sum(record["kind"] == "begin" for record in records.history(run)) == count, run)
    log = run / "logs" / records.last_begin(run)["incarnation"] / "rank_0.log"
    operator.until(lambda: log.is_file() and re.search(r"^step: \d+/", log.read_text(), re.MULTILINE), run)
    operator.kill_rank(run, 3, signal.SIGSTOP)


@pytest.mark.slow
def test_killed_and_warned_inside_an_image_ranks_save_and_end_with_the_losses_of_a_run_outside(
    operator: Operator, tmp_path: Path, root: Path, reference: Reference, corpus: Path
) -> None:
    run, scratch = tmp_path / "run", tmp_path / "scratch"
    scratch.mkdir()
    run.mkdir()
    inside(operator, root, run, scratch, corpus, scratch=str(scratch))
    (job,) = operator.submit(None, *run_words(run, SHORT, "checkpoint.save_every=0")).values()

    stands_still(operator, run, 1)
    rank = rank_of(run, 3)
    assert rank is not None
    files = Path("/proc", str(rank.pid), "root")
    assert (files / image.MARK).read_text() == f"{root}\n"
    assert not (files / "etc" / "debian_version").exists()
    assert not (files / operator.profile.relative_to("/")).exists()
    assert (rank.cmdline()[0], image.PYTHON.exists()) == (str(image.PYTHON), False)
    assert rank.environ()["PYTHONPATH"].split(":")[0] == str(run / "slurm" / "code")
    assert rank.environ()["TMPDIR"] == str(scratch)
    assert Path("/proc", str(rank.pid), "status").read_text().split("NSpid:")[1].split("\n")[0].split()[-1] == "2"
    operator.kill_rank(run, 3, signal.SIGCONT)

    # The warning before the time limit: nothing is saved by itself here, so going on needs that every rank heard of it.
    operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
    operator.until(lambda: operator.cluster.job(job)["Restarts"] == "1", run)
    assert operator.status(run)[0]["last"].startswith("stopped and saved")
    saved = records.committed_step(run)
    assert saved > 0

    stands_still(operator, run, 2)
    operator.kill_rank(run, 3, restarts=1)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "1"), operator.logs(run)
    ends = [record for record in records.history(run) if record["kind"] == "end"]
    assert [record["decision"] for record in ends] == ["requeue", "again", "done"]
    assert "failed first: Exited with exit code 137 (SIGKILL)" in ends[1]["reason"]
    operator.ends_as(run, reference, SHORT)


@pytest.mark.slow
def test_a_rank_that_hangs_inside_an_image_is_named_and_replaced(
    operator: Operator, tmp_path: Path, root: Path, reference: Reference, corpus: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    inside(operator, root, run, corpus)
    (job,) = operator.submit(None, *run_words(run, SHORT, "train.hang_timeout_s=20")).values()
    stands_still(operator, run, 1)
    found = operator.final(job, run)
    assert (found["JobState"], found["Restarts"]) == ("COMPLETED", "0"), operator.logs(run)
    assert "rank 3: no answer" in operator.status(run)[0]["endings"][0]["reason"]
    operator.ends_as(run, reference, SHORT)


@pytest.mark.slow
def test_warned_while_its_containers_start_a_run_saves_at_its_first_step_and_goes_on(
    operator: Operator, tmp_path: Path, root: Path, reference: Reference, corpus: Path
) -> None:
    run, gate = tmp_path / "run", tmp_path / "gate"
    run.mkdir()
    gate.mkdir()
    # A runtime that takes its time, as one that unpacks an image: whatever it is sent meanwhile, no rank hears.
    slow = f'touch {gate}/$SLURM_PROCID; until [ -e {gate}/open ]; do sleep 0.1; done; exec "$@"'
    inside(operator, root, run, corpus)
    profile = yaml.safe_load(operator.profile.read_text())
    operator.configure(**profile | {"wrap": ["sh", "-c", slow, "slow", *profile["wrap"]], "preflight": False})
    (job,) = operator.submit(None, *run_words(run, SHORT, "checkpoint.save_every=0")).values()
    operator.until(lambda: len(list(gate.iterdir())) == 4, run)
    operator.cluster.run("scancel", "--batch", "--signal=USR1", job)
    operator.until(lambda: list(run.glob(f"logs/*/{WARNED}")), run)
    (gate / "open").touch()
    operator.until(lambda: operator.cluster.job(job)["Restarts"] == "1", run)
    assert records.committed_step(run) == 1
    assert operator.status(run)[0]["last"].startswith("stopped and saved")
    assert operator.final(job, run)["JobState"] == "COMPLETED", operator.logs(run)
    operator.ends_as(run, reference, SHORT)


@pytest.mark.parametrize("seen", [False, True], ids=["nothing is mounted", "the code alone is mounted"])
def test_a_run_folder_that_the_container_does_not_show_is_what_the_job_gives_up_for(
    operator: Operator, tmp_path: Path, root: Path, seen: bool
) -> None:
    run = tmp_path / "run"
    code = run / "slurm" / "code"
    code.mkdir(parents=True)
    inside(operator, root, *([code] if seen else []), max_failures=1)
    (job,) = operator.submit(None, *run_words(run, SHORT)).values()
    assert operator.final(job, run)["JobState"] == "FAILED", operator.logs(run)
    said = operator.status(run)[0]["last"]
    assert said.startswith("all nodes are bad, 1 of 1: n")
    if seen:
        assert f"the run folder {run} is not visible; mount it, in a container at the same path" in said
    else:
        assert (
            "No module named 'megabiomed'); if that is in a container, mount the run folder there at the same path"
            in said
        )
