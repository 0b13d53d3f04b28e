"""What becomes of a submission when the scheduler is slow, the disk is full, or two people type at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.scheduling import planned

from megabiomed.checkpoint.fence import Fence
from megabiomed.ground.errors import LaunchError
from megabiomed.launch import agent, records, scheduler
from megabiomed.launch.control import cancel, resubmit, save
from megabiomed.launch.status import status_of
from megabiomed.launch.submit import submit_all
from megabiomed.processes import slurm_commands


def test_without_a_scheduler_nothing_of_a_run_is_touched(run_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    (run / "slurm").mkdir(parents=True)
    (run / "slurm" / "job.json").write_text('{"job_id": null}')
    words = ["submit", str(run_file), "--cluster", "cpu-test", f"run_dir={run}"]
    done = subprocess.run(
        [sys.executable, "-m", "megabiomed.cli", *words],
        env=os.environ | {"PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "sbatch is not installed here" in done.stderr) == (2, True), done.stderr
    assert [path.name for path in run.rglob("*")] == ["slurm", "job.json"]
    assert (run / "slurm" / "job.json").read_text() == '{"job_id": null}'


@pytest.mark.parametrize(
    "error", [OSError("No space left on device"), KeyboardInterrupt()], ids=["full disk", "Ctrl-C"]
)
def test_a_chain_is_taken_back_whatever_keeps_it_from_being_submitted_whole(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    one, two, three = (planned(run_file, tmp_path / name) for name in ("one", "two", "three"))
    jobs = [replace(job, stage=replace(job.stage, name=name)) for name, job in zip("abc", (one, two, three))]
    ids = iter(["7", "8"])
    cancelled: list[tuple[str, ...]] = []

    def submit(*words: object) -> str:
        for job_id in ids:
            return job_id
        raise error

    def call(*words: str, patient: bool = True) -> str:
        cancelled.append(words)
        raise LaunchError("scancel refused")  # the others are cancelled all the same

    queue = iter([{}, {}, {}, {"7": "PENDING"}, {"6": "COMPLETED", "8": "PENDING"}, {"9": "PENDING"}])
    stand_ins = {"need": str, "check_script": str, "submit": submit, "call": call}
    for name, stand_in in (stand_ins | {"jobs_of_script": lambda script: next(queue)}).items():
        monkeypatch.setattr(scheduler, name, stand_in)
    with pytest.raises(LaunchError if isinstance(error, OSError) else KeyboardInterrupt):
        submit_all(jobs)
    assert cancelled == [("scancel", number) for number in "789"]  # 9 was queued without an answer


def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_copy(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = queue(), tmp_path / "run"

    def full(source: Path, target: Path) -> None:
        target.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("megabiomed.launch.snapshot.shutil.copyfile", full)
    with pytest.raises(LaunchError, match=r"run folder cannot be written: got No space left on device$"):
        submit_all([planned(run_file, run)])
    assert not run.exists()
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("refused", ["by the check", "by the reasons", "because one is queued already"])
def test_a_refused_submission_leaves_every_folder_as_it_was(
    run_file: Path, queue: Any, tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    base = queue()
    one, two = planned(run_file, tmp_path / "deep" / "one"), planned(run_file, tmp_path / "two")
    submit_all([two])
    record = (tmp_path / "two/slurm/job.json").read_bytes()
    if refused != "because one is queued already":
        (base / "7").write_text(f"COMPLETED|{two.path}\n")
    if refused == "by the check":
        text = (tools / "sbatch").read_text()
        (tools / "sbatch").write_text(text.replace("exit 0", "{ echo no such partition >&2; exit 1; }"))
    monkeypatch.setattr(
        "megabiomed.launch.submit.refuse_hopeless",
        lambda ids: (_ for _ in ()).throw(LaunchError("the scheduler would never start stage a")),
    )
    chain = [replace(job, stage=replace(job.stage, name=name)) for name, job in zip("ab", (one, two))]
    with pytest.raises(LaunchError):
        submit_all(chain)
    assert not (tmp_path / "deep").exists()
    assert (tmp_path / "two/slurm/job.json").read_bytes() == record
    states = {file.name: file.read_text().partition("|")[0] for file in base.iterdir()}
    assert states["7"] == ("PENDING" if refused == "because one is queued already" else "COMPLETED")
    assert set(states.values()) <= {"PENDING", "COMPLETED", "CANCELLED"}
    assert len(states) == (3 if "reasons" in refused else 1)


def test_a_save_is_asked_only_of_a_run_that_runs(run_file: Path, queue: Any, tmp_path: Path) -> None:
    base, run = queue(), tmp_path / "run"
    submit_all([planned(run_file, run)])
    for state in ("PENDING", "CANCELLED"):
        (base / "7").write_text(f"{state}|{run}/slurm/job.sh\n")
        with pytest.raises(LaunchError, match=f"nothing to save: .*run does not run: got {state}; ask again"):
            save(run)
    assert not (run / "control/save").exists()
    (base / "7").write_text(f"RUNNING|{run}/slurm/job.sh\n")
    assert save(run).startswith(f"asked: {run}/control/save; ")
    Path(f"{base}.away").touch()
    assert save(run).startswith("asked, if it runs (the scheduler does not answer): ")
    Path(f"{base}.away").unlink()
    (base / "7").write_text("COMPLETED|x\n")
    Fence.claim(run, "host.123")  # a start that was typed on this machine, of which the scheduler knows nothing
    assert save(run).startswith("asked: ")
    records.note_event(run, "finished", None)
    with pytest.raises(LaunchError, match=r"nothing to save: .* is finished"):
        save(run)


def test_a_submission_of_a_run_that_began_is_noted(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = planned(run_file, tmp_path / "run")
    for name, stand_in in {"need": str, "check_script": str, "submit": lambda *words: "7"}.items():
        monkeypatch.setattr(scheduler, name, stand_in)
    monkeypatch.setattr(scheduler, "job_of", lambda run: {})
    monkeypatch.setattr(scheduler, "jobs_of_script", lambda script: {})
    submit_all([job])
    assert records.history(job.stage.folder) == []
    records.append(job.stage.folder, "begin", None, incarnation="7.0.1", step=0)
    submit_all([job])
    assert [record.get("outcome") for record in records.history(job.stage.folder)] == [None, "resubmitted"]


def test_what_the_shell_holds_does_not_win_over_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\n#SBATCH --partition=main\n#SBATCH --time=10\n")
    for name in ("SBATCH_PARTITION", "SBATCH_ACCOUNT", "SBATCH_TIMELIMIT", "SBATCH_WAIT", "SLURM_CONF", "SLURM_HINT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def passed() -> list[str]:
        return sorted(name for name in scheduler.shell_for(script) if name.startswith(("SBATCH_", "SLURM_")))

    assert passed() == ["SBATCH_ACCOUNT", "SLURM_CONF", "SLURM_HINT"]
    monkeypatch.setenv("SLURM_JOB_ID", "3")  # typed inside another job
    assert passed() == ["SBATCH_ACCOUNT", "SLURM_CONF"]


TIMED_OUT = "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1"


@pytest.mark.parametrize("after", ["exec sleep 60", TIMED_OUT], ids=["hangs", "times out"])
def test_a_job_that_was_queued_without_an_answer_is_found_and_not_submitted_again(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    monkeypatch.setattr(slurm_commands, "TIMEOUT_S", 1.0)
    base = queue(after=after)
    (base / "1").write_text(f"CANCELLED|{tmp_path}/run/slurm/job.sh\n")  # an earlier submission of the same run
    ids, _ = submit_all([planned(run_file, tmp_path / "run")])
    assert ids == {"pretrain": "8"}
    assert records.read_job(tmp_path / "run")["job_id"] == "8"
    assert sorted(file.name for file in base.iterdir()) == ["1", "8"]


def test_a_request_that_was_heard_twice_leaves_one_job(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is queued only after it was given up and sent again."""
    monkeypatch.setattr(slurm_commands, "RETRY_S", (0.1,))
    monkeypatch.setattr(scheduler, "_LOOK_S", (0.1,))
    late = f"{{ [ -e {tmp_path}/asked ] && echo 'PENDING|'${{@: -1}} > {tmp_path}/queue/7; }} || "
    base = queue(before=f"{late} {{ touch {tmp_path}/asked; {TIMED_OUT}; }}")
    assert submit_all([planned(run_file, tmp_path / "run")])[0] == {"pretrain": "7"}
    assert [(file.name, file.read_text()[:7]) for file in sorted(base.iterdir())] == [
        ("7", "PENDING"),
        ("8", "CANCELL"),
    ]


def test_a_submission_that_nobody_can_vouch_for_says_so_and_its_job_is_found_later(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(slurm_commands, "RETRY_S", (0.1,))
    queue(after=f"touch {tmp_path}/queue.away; {TIMED_OUT}")
    with pytest.raises(LaunchError, match=r"job\.sh may be queued, or not: got Unable to contact slurm controller"):
        submit_all([planned(run_file, run)])
    (tmp_path / "queue.away").unlink()
    base = queue()
    assert records.read_job(run)["job_id"] is None
    assert status_of(run)["job"] == "7"
    assert list(cancel(run, save=False, chain=True)) == ["cancelled: job 7 (PENDING)"]
    (base / "8").write_text(f"PENDING|{run}/slurm/job.sh\n")
    with pytest.raises(LaunchError, match=r"is in the queue already: got job 8, PENDING; megabiomed cancel"):
        submit_all([planned(run_file, run)])


def test_two_operators_cannot_submit_a_run_at_once(run_file: Path, queue: Any, tmp_path: Path) -> None:
    base = queue(after=f"touch {tmp_path}/first; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done")
    job = planned(run_file, tmp_path / "run")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(submit_all, [job])
        while not (tmp_path / "first").exists():
            assert not first.done(), first.exception()
        with pytest.raises(LaunchError, match="run is being submitted by somebody else; wait a moment"):
            submit_all([job])
        with pytest.raises(LaunchError, match="is being submitted"):
            list(resubmit(tmp_path / "run", "this", dry_run=False))
        (tmp_path / "go").touch()
        assert first.result()[0] == {"pretrain": "7"}
    assert [file.name for file in base.iterdir()] == ["7"]


def test_a_job_that_is_not_the_one_that_was_recorded_leaves_the_run_alone(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, run = queue(), tmp_path / "run"
    submit_all([planned(run_file, run)])
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    found = agent.begin(run, "9.0.1")
    assert (found.verb, found.reason) == ("fail", "job 7 is the job of this run")
    assert status_of(run)["last"] is None
    (base / "7").write_text(f"CANCELLED|{run}/slurm/job.sh\n")  # then a script that was submitted by hand may run
    assert agent.begin(run, "9.0.1").verb == "run"


@pytest.mark.parametrize("save", [True, False])
def test_a_run_is_told_to_leave_before_the_scheduler_is_asked(
    run_file: Path, queue: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: bool
) -> None:
    monkeypatch.setattr(slurm_commands, "RETRY_S", (0.1,))
    base, run = queue(), tmp_path / "run"
    submit_all([planned(run_file, run)])
    (tmp_path / "queue.away").touch()
    if save:
        (said,) = cancel(run, save=True, chain=True)
        assert said.startswith("asked to save and leave, now or when it starts: the scheduler does not answer")
    else:
        with pytest.raises(LaunchError, match=r"was not cancelled: got Unable to contact.*leaves by itself"):
            list(cancel(run, save=False, chain=True))
    assert (run / "control" / "end").is_file()
    (tmp_path / "queue.away").unlink()
    (base / "7").unlink()  # a run that is over keeps a switch that was set on purpose, and gets none
    assert list(cancel(run, save=save, chain=True)) == ["nothing to cancel: job 7 (not in the queue)"]
    assert (run / "control" / "end").is_file()
    (run / "control" / "end").unlink()
    list(cancel(run, save=save, chain=True))
    assert not (run / "control" / "end").exists()
